"""Users who need prove nothing any more: the system, sshd or the operator has let them in.

RFC 1225 tells of one such server: MZnet's clients had named themselves to the terminal line,
and it asked for no USER and PASS.
"""

from __future__ import annotations

from twisted.cred.checkers import ICredentialsChecker
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from popserv.interfaces import IPreauthenticated


@implementer(IPreauthenticated)
class Preauthenticated:
    """A user by name, for whom somebody has vouched."""

    def __init__(self, username: bytes) -> None:
        self.username = username


@implementer(ICredentialsChecker)
class PreauthenticatedChecker:
    """Lets everybody in who comes with IPreauthenticated; for a portal that nobody else reaches."""

    credentialInterfaces = (IPreauthenticated,)

    def requestAvatarId(self, credentials: IPreauthenticated) -> Deferred[bytes | tuple[()]]:
        """Return the name."""
        return succeed(credentials.username)
