"""Sessions whose user is known before a word is said: they begin in TRANSACTION.

RFC 1225 tells of MZnet's server, whose clients had named themselves to their terminal line:
it did "not require a USER/PASS combination before entering the TRANSACTION state".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from twisted.cred.portal import Portal
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import ITransport
from twisted.protocols.basic import LineReceiver

from popserv.auth.preauth import Preauthenticated
from popserv.core.command import CommandTable
from popserv.core.replies import Reply
from popserv.core.session import State
from popserv.server.factory import POP3Factory
from popserv.server.protocol import POP3Server

Identify = Callable[[ITransport], Awaitable[bytes]]
"""Tells the name of the user at the other end; raises a POPError if it is nobody's."""


class PreauthenticatedServer(POP3Server):
    """One connection of a user who is known: the login comes before the greeting.

    The greeting says what a login is answered, and TRANSACTION has begun; or it is ``-ERR``
    with the reason, and the connection is closed.  What the client sends meanwhile waits.
    """

    factory: PreauthenticatedFactory

    # A connection's first octets tell nothing that is not known.
    _heard = True

    def _greet(self) -> None:
        """Log in, then send the greeting (RFC 1725 section 4)."""
        self._busy = True
        LineReceiver.pauseProducing(self)
        Deferred.fromCoroutine(self._log_in()).addCallbacks(self._answer, self._refuse)

    async def _log_in(self) -> Reply:
        name = await self.factory.identify(self.transport)
        await self.session.login(name, Preauthenticated(name))
        return Reply(b"%b, %b" % (self.factory.greeting, self.session.welcome().encoded()))

    def _has_had_enough(self) -> bool:
        return self.session.state is State.AUTHORIZATION or super()._has_had_enough()


class PreauthenticatedFactory(POP3Factory):
    """Makes a :class:`PreauthenticatedServer` for each connection.

    ``identify`` names its user.  ``portal`` must have a checker for IPreauthenticated, and
    no other factory may have that portal.  For the rest see :class:`POP3Factory`.
    """

    protocol: Any = PreauthenticatedServer

    def __init__(
        self, commands: CommandTable, portal: Portal, *, identify: Identify, **traits: Any
    ) -> None:
        super().__init__(commands, portal, **traits)
        self.identify = identify
