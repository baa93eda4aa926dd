"""Connections whose user is known before the client sends anything: sessions without a login.

RFC 1225 describes MZnet's server, whose clients had identified themselves to their terminal
line: it did "not require a USER/PASS combination before entering the TRANSACTION state".
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
"""Returns the name of a client's user; raises a POPError if there is none."""


class PreauthenticatedServer(POP3Server):
    """A connection that logs its user in before the greeting.

    If that succeeds, the greeting is ``+OK`` with the text of the reply to a login, and the
    session is in the TRANSACTION state.  Otherwise it is ``-ERR`` with the reason, and the
    connection is closed.  Commands that arrive before the greeting are answered after it.
    """

    factory: PreauthenticatedFactory

    def greet(self) -> None:
        """Log in, then send the greeting (RFC 1725 section 4)."""
        self.command_pending = True
        LineReceiver.pauseProducing(self)
        Deferred.fromCoroutine(self._log_in()).addCallbacks(self.send_reply, self._command_failed)

    async def _log_in(self) -> Reply:
        self.session.method = "preauth"
        name = await self.factory.identify(self.transport)
        await self.session.login(name, Preauthenticated(name))
        return Reply(b"%b, %b" % (self.factory.greeting, self.session.login_text().encoded()))

    def must_close_after_error(self) -> bool:
        """Return whether the session is over; a failed login ends it, too."""
        return self.session.state is State.AUTHORIZATION or super().must_close_after_error()


class PreauthenticatedFactory(POP3Factory):
    """Makes a :class:`PreauthenticatedServer` for each connection.

    ``identify`` returns the name of the client's user.  ``portal`` must have a checker for
    IPreauthenticated, and no other factory may use that portal.  ``options`` are those of
    :class:`POP3Factory`.
    """

    protocol: Any = PreauthenticatedServer

    def __init__(
        self, commands: CommandTable, portal: Portal, *, identify: Identify, **options: Any
    ) -> None:
        super().__init__(commands, portal, **options)
        self.identify = identify
