"""Users who need prove nothing any more: the system, sshd or the operator has let them in.

RFC 1225 tells of one such server: MZnet's clients had named themselves to the terminal line,
and it asked for no USER and PASS.
"""

from __future__ import annotations

import os
import pwd

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from popserv.errors import NoUser
from popserv.interfaces import IPreauthenticated
from popserv.threads import Threads

# Names may come from a directory server.
_names = Threads("popserv-names", threads=2, backlog=200)


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


async def name_of(uid: int) -> bytes:
    """Return the name of one of the system's users.

    :raises NoUser: there is none.
    :raises popserv.errors.TryLater: too many are being asked for.
    """
    try:
        return os.fsencode((await _names.run(pwd.getpwuid, uid)).pw_name)
    except KeyError:
        raise NoUser from UnauthorizedLogin(f"uid {uid} has no name")
