"""Where logins wait for their turn, and what becomes of those that fail.

A :class:`Gate` is one server's, a :class:`Guard` one connection's.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from functools import partial
from typing import Protocol

from twisted.cred.credentials import ICredentials
from twisted.internet.defer import Deferred

from popserv.auth.throttle.penalties import Penalties, attempted_secrets
from popserv.auth.throttle.slots import LoginAttempt, LoginSlots
from popserv.core.session import Authenticator, Release, client_is_connected
from popserv.interfaces import IMailbox
from popserv.runtime.bus import WorkerBus


class Client(Protocol):
    """A connection, as far as its guard must know it."""

    def is_there(self) -> bool:
        """Tell, in any thread, whether the client still waits for its answer."""

    def callLater(self, seconds: float, function: Callable[[], object]) -> object:
        """Call a function after so many seconds."""


class LoginThrottle:
    """The ``login`` of a server, with what is remembered of its networks.

    ``exchange`` tells the other workers of failed logins.
    """

    def __init__(self, login: Authenticator, bus: WorkerBus) -> None:
        self.login = login
        self.penalties = Penalties(bus)
        self.turns = LoginSlots(self.penalties.knows)

    def beside(self, login: Authenticator) -> LoginThrottle:
        """Return the gate of another door with the same memory, so that a guess counts at both."""
        other = copy(self)
        other.login = login
        return other


class ClientThrottle:
    """Lets the logins of one connection through when it is the turn of its ``network``.

    Those of no network need no turn.
    """

    __slots__ = ("_client", "_gate", "_turn", "network")

    def __init__(self, gate: LoginThrottle, network: str | None, client: Client) -> None:
        self.network = network
        self._gate = gate
        self._client = client
        self._turn: LoginAttempt | None = None

    async def authenticate(
        self, name: bytes, credentials: ICredentials
    ) -> tuple[IMailbox, Release]:
        """Log in when it is the turn.

        :raises popserv.errors.POPError: as
            :meth:`popserv.core.session.Authenticator.authenticate`, or the queue is full, or the
            client has disconnected.
        """
        gate, network, client = self._gate, self.network, self._client
        if network is not None:
            turn = LoginAttempt(network, name, credentials, client.is_there)
            waiting = gate.turns.enter(turn)
            self._turn = turn
            if waiting is not None:
                await waiting
        client_is_connected.set(client.is_there)
        opened = await gate.login.authenticate(credentials)
        if network is not None:
            self.over()
            gate.penalties.succeeded(network, name)
        return opened

    def pause(self, asked: Deferred[bytes]) -> None:
        """Give others their turn until the client has answered, who may take its time."""
        if self._turn is not None:
            self._gate.turns.end(self._turn)
            asked.addCallback(self._go_on, self._turn)

    def _go_on(self, answer: bytes, turn: LoginAttempt) -> bytes | Deferred[bytes]:
        waiting = self._gate.turns.begin(turn)
        return answer if waiting is None else waiting.addCallback(lambda _: answer)

    def over(self) -> None:
        """End the turn, if there is one."""
        turn, self._turn = self._turn, None
        if turn is not None:
            self._gate.turns.end(turn)

    def failed(self, name: bytes | None, delay: float) -> float:
        """Note a failed login; return the seconds after which it is answered, and its turn over.

        ``delay`` are the seconds that any failed login waits.
        """
        turn, self._turn = self._turn, None
        if self.network is None:
            return delay
        what = attempted_secrets(name, turn.credentials if turn is not None else None)
        seconds = delay * self._gate.penalties.failed(self.network, what)
        if turn is not None:
            self._client.callLater(seconds, partial(self._gate.turns.end, turn))
        return seconds

    def leave(self) -> None:
        """Wait no more, for client disconnected."""
        if self._turn is not None:
            self._gate.turns.leave(self._turn)
