"""The connection to Dovecot's authentication server that a process keeps open."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from errno import EACCES
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from popserv.auth.dovecot.connection import AuthConnection, ConnectionFailed
from popserv.errors import TryLater
from popserv.runtime.permissions import this_user

FIRST_DELAY = 0.1
MAX_DELAY = 2.0
"""Seconds before the first and at most before a later attempt to connect again."""

MAX_WAIT = 5.0
"""Seconds for which a login waits for a connection."""

MAX_REQUESTS = 1000
"""Logins that may wait for Dovecot at a time."""


class AuthClient:
    """Connects to Dovecot when it is first needed, and again when the connection was lost.

    ``path`` is the path of the socket.  ``mechanisms`` are those of the last handshake, with their
    flags: they stay while Dovecot is restarted.
    """

    log = Logger()

    _connected_at: float

    def __init__(self, path: str, clock: Any = None) -> None:
        self.path = path
        self.mechanisms: Mapping[bytes, frozenset[bytes]] | None = None
        self.current: AuthConnection | None = None
        self._clock = clock
        self._is_started = False
        self._delay = FIRST_DELAY
        self._reported = ""
        self._lost_because = ""
        self._waiting: list[Deferred[AuthConnection]] = []

    def start(self) -> None:
        """Connect, unless that was done before."""
        if not self._is_started:
            self._is_started = True
            self._set_clock()
            self._connect()

    def now(self) -> int:
        """Return the time in seconds since the epoch."""
        return int(self._clock.seconds())

    async def connection(self) -> AuthConnection:
        """Return the connection; wait for it if there is none.

        :raises ConnectionFailed: there is none within ``MAX_WAIT`` seconds.
        :raises TryLater: too many logins wait for Dovecot.
        """
        self.start()
        current = self.current
        if len(self._waiting) + (current.unanswered if current else 0) >= MAX_REQUESTS:
            raise TryLater("server too busy, try again later")
        if current is not None:
            return current
        waiting: Deferred[AuthConnection] = Deferred()
        self._waiting.append(waiting)
        timeout = self._clock.callLater(MAX_WAIT, self._waited_in_vain, waiting)
        try:
            return await waiting
        finally:
            if timeout.active():
                timeout.cancel()

    def _waited_in_vain(self, waiting: Deferred[AuthConnection]) -> None:
        self._waiting.remove(waiting)
        waiting.errback(ConnectionFailed(f"no connection to Dovecot at {self.path}"))

    async def try_once(self) -> Mapping[bytes, frozenset[bytes]]:
        """Connect, disconnect, and return the mechanisms, without a line in the log.

        :raises ConnectionFailed: there is no connection.
        """
        self._set_clock()
        try:
            connection = await self._open(lambda reason: None)
        except ConnectError as error:
            raise ConnectionFailed(_reason_of(error)) from error
        connection.close()
        return connection.mechanisms

    def _set_clock(self) -> None:
        if self._clock is None:
            # twistd chooses the reactor after everything is imported.
            from twisted.internet import reactor

            self._clock = reactor

    def _open(self, lost: Callable[[str], object]) -> Deferred[AuthConnection]:
        endpoint = UNIXClientEndpoint(self._clock, self.path, timeout=MAX_WAIT)
        factory = Factory.forProtocol(partial(AuthConnection, self._clock, lost))
        factory.noisy = False
        connecting: Deferred[AuthConnection] = endpoint.connect(factory)
        return connecting.addCallback(lambda connection: connection.ready)

    def _connect(self) -> None:
        connecting = self._open(self._lost)
        connecting.addCallbacks(self._connected, self._failed)

    def _connected(self, connection: AuthConnection) -> None:
        self.current = connection
        self.mechanisms = connection.mechanisms
        self._connected_at = self._clock.seconds()
        if self._reported:
            self._reported = ""
            self.log.info("{path}: connected to Dovecot again", path=self.path)
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(connection)

    def _lost(self, reason: str) -> None:
        """Connect again; a restart of Dovecot is not reported if that succeeds at once."""
        self.current = None
        has_lasted = self._clock.seconds() - self._connected_at >= MAX_DELAY
        if has_lasted:
            self._delay = FIRST_DELAY
        # A server that accepts connections only to close them is logged once.
        if has_lasted or reason != self._lost_because:
            self._lost_because = reason
            self.log.info(
                "{path}: connection to Dovecot lost: {reason}", path=self.path, reason=reason
            )
        self._connect_later()

    def _failed(self, failure: Failure) -> None:
        reason = _reason_of(failure.value)
        # Logged once, not at each attempt.
        if reason != self._reported:
            self._reported = reason
            self.log.critical(
                "{path}: cannot connect to Dovecot: {reason}; until then, logins fail with "
                "[SYS/TEMP]",
                path=self.path,
                reason=reason,
            )
        self._connect_later()

    def _connect_later(self) -> None:
        self._clock.callLater(self._delay, self._connect)
        self._delay = min(2 * self._delay, MAX_DELAY)


def _reason_of(error: Any) -> str:
    # It is an OSError, or only its number.
    number = getattr(getattr(error, "osError", None), "errno", getattr(error, "osError", None))
    reason = str(error) if number is None else os.strerror(number)
    return f"{reason} for user {this_user()}" if number == EACCES else reason
