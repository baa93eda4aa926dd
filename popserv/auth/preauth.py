"""The checker for users who were authenticated before the session, such as by sshd.

RFC 1225 describes such a server: MZnet's clients had given their names on the terminal line, and
the server required no USER and PASS.  ``popserv.server.preauth`` starts such a session.
"""

from __future__ import annotations

from twisted.cred.checkers import ICredentialsChecker
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from popserv.interfaces import IPreauthenticated


@implementer(IPreauthenticated)
class Preauthenticated:
    """The name of a user who is authenticated already."""

    def __init__(self, username: bytes) -> None:
        self.username = username


@implementer(ICredentialsChecker)
class PreauthenticatedChecker:
    """Accepts all credentials of the kind IPreauthenticated.

    Use it only in a portal that no other factory uses.
    """

    credentialInterfaces = (IPreauthenticated,)

    def requestAvatarId(self, credentials: IPreauthenticated) -> Deferred[bytes | tuple[()]]:
        """Return the user's name."""
        return succeed(credentials.username)
