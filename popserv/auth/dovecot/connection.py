"""One connection to Dovecot's auth-client socket: the handshake, and requests side by side."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import connectionDone
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

from popserv.auth.dovecot.lines import (
    VERSION,
    ProtocolError,
    Reply,
    auth_line,
    continue_line,
    parse_number,
    parse_reply,
)
from popserv.core.connection_details import ConnectionDetails

HANDSHAKE_TIMEOUT = 10.0
"""Seconds within which Dovecot must complete its handshake."""

REPLY_TIMEOUT = 60.0
"""Seconds within which Dovecot must reply; it delays refusals itself, by up to 17 seconds."""

MAX_MECHANISMS = 100


class ConnectionFailed(Exception):
    """There is no connection to Dovecot, or it was lost; the message says why."""


class NoReply(ConnectionFailed):
    """Dovecot has not replied in time."""


class AuthConnection(LineOnlyReceiver):
    """A connection to Dovecot's authentication server.

    ``ready`` fires with the connection after the handshake, or fails.  ``lost`` is called with the
    reason if the connection is lost after that.  ``mechanisms`` are those that Dovecot offers, with
    their flags.
    """

    delimiter = b"\n"
    MAX_LENGTH = 1 << 16
    transport: Any

    def __init__(self, clock: Any, lost: Callable[[str], object]) -> None:
        self.ready: Deferred[AuthConnection] = Deferred()
        self.mechanisms: dict[bytes, frozenset[bytes]] = {}
        self.is_lost = False
        self._clock = clock
        self._lost = lost
        self._has_version = False
        self._process = self._connection = 0
        self._reason = ""
        self._has_shaken_hands = False
        self._last_request = 0
        self._waiting: dict[int, Deferred[Reply]] = {}
        self._lines = 0
        self._timeout = clock.callLater(
            HANDSHAKE_TIMEOUT,
            self._give_up,
            "it sends no handshake; use the socket auth-client, not auth-userdb or auth-master",
        )

    def connectionMade(self) -> None:
        """Send this side of the handshake."""
        # Dovecot accepts a number once at a time, and nobody needs a process ID: several
        # connections of one process, or processes in containers, would have the same.
        number = secrets.randbelow((1 << 31) - 1) + 1
        self.transport.write(b"%b\nCPID\t%d\n" % (VERSION, number))

    def lineReceived(self, line: bytes) -> None:
        """Process a line of the handshake, or a reply; unknown commands are ignored."""
        if self._reason:
            return
        self._lines += 1
        command, *parameters = line.split(b"\t")
        try:
            if command in (b"OK", b"FAIL", b"CONT"):
                number, reply = parse_reply(command, parameters)
                waiting = self._waiting.pop(number, None)
                # A late reply, to a request that was cancelled, is not an error.
                if waiting is not None:
                    waiting.callback(reply)
            elif not self._has_shaken_hands:
                self._handshake(command, parameters)
        except ProtocolError as error:
            self._give_up(f"{error}, not {line[:50]!r}")

    def _handshake(self, command: bytes, parameters: list[bytes]) -> None:
        if not self._has_version and command != b"VERSION":
            raise ProtocolError("VERSION was expected")
        if command == b"VERSION":
            if parameters[:1] != [b"1"]:
                raise ProtocolError("version 1 of the protocol was expected")
            self._has_version = True
        elif command == b"MECH" and parameters and len(self.mechanisms) < MAX_MECHANISMS:
            self.mechanisms[parameters[0].upper()] = frozenset(parameters[1:])
        elif command == b"SPID":
            self._process = parse_number(parameters)
        elif command == b"CUID":
            self._connection = parse_number(parameters)
        elif command == b"DONE":
            self._has_shaken_hands = True
            self._timeout.cancel()
            self.ready.callback(self)

    @property
    def apop_prefix(self) -> bytes:
        """What a timestamp of APOP must begin with; the seconds since the epoch follow, in hex."""
        return b"<%x.%x." % (self._process, self._connection)

    async def begin(
        self, mechanism: bytes, details: ConnectionDetails, initial: bytes | None
    ) -> tuple[int, Reply]:
        """Begin a request; return its number and the first reply.

        The mechanism must be one of ``mechanisms``: for any other, Dovecot breaks the connection.

        :raises ConnectionFailed: there is no reply.
        """
        self._last_request = number = self._last_request % 0x7FFFFFFF + 1
        return number, await self._ask(number, auth_line(number, mechanism, details, initial))

    async def respond(self, number: int, response: bytes) -> Reply:
        """Send the client's response to a challenge, and return the next reply.

        :raises ConnectionFailed: there is no reply.
        """
        return await self._ask(number, continue_line(number, response))

    def cancel(self, number: int) -> None:
        """Tell Dovecot that the client has cancelled the exchange."""
        if not self.is_lost:
            self.transport.write(b"CANCEL\t%d\n" % number)

    @property
    def unanswered(self) -> int:
        """The number of requests that wait for a reply."""
        return len(self._waiting)

    def close(self) -> None:
        """Close the connection."""
        self.transport.abortConnection()

    async def _ask(self, number: int, line: bytes) -> Reply:
        if self.is_lost or self._reason:
            raise ConnectionFailed("the connection to Dovecot was lost")
        self.transport.write(line + b"\n")
        waiting: Deferred[Reply] = Deferred()
        self._waiting[number] = waiting
        timeout = self._clock.callLater(REPLY_TIMEOUT, self._reply_missing, number, self._lines)
        try:
            return await waiting
        finally:
            if timeout.active():
                timeout.cancel()

    def _reply_missing(self, number: int, lines: int) -> None:
        waiting = self._waiting.pop(number)
        self.cancel(number)
        if self._lines == lines:
            self._give_up(f"it has sent nothing for {REPLY_TIMEOUT:g} seconds")
        waiting.errback(NoReply(f"it did not reply in {REPLY_TIMEOUT:g} seconds"))

    def lineLengthExceeded(self, line: bytes) -> None:
        """Close the connection: the line is longer than any of Dovecot's."""
        self._give_up("it sends a line without end")

    def _give_up(self, reason: str) -> None:
        self._reason = self._reason or reason
        self.close()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Fail all requests."""
        self.is_lost = True
        text = self._reason or "Dovecot has closed the connection"
        waiting, self._waiting = self._waiting, {}
        if self._has_shaken_hands:
            self._lost(text)
        else:
            if self._timeout.active():
                self._timeout.cancel()
            self.ready.errback(ConnectionFailed(text))
        for each in waiting.values():
            each.errback(ConnectionFailed(text))
