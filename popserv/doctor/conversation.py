"""A POP3 client that sends any lines, and that no server can keep busy or fill its memory."""

from __future__ import annotations

import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress

from popserv.core.printable import printable

REPLY_TIMEOUT = 15.0
"""Seconds in which the server must send a status line, or the next part of a response."""

TOTAL_TIMEOUT = 120.0
"""Seconds after which a conversation ends."""

MAX_LINE = 1 << 16
"""The maximum octets of a line."""

MAX_OCTETS = 1 << 25
"""The maximum octets of one response, unless the server has told of a larger message."""

MAX_CAPABILITIES = 1 << 16
"""The maximum octets of a list of capabilities or of SASL mechanisms."""

_MAX_SHOWN = 80

Address = tuple[str, int] | str
"""A host and a port, or the path of a UNIX socket."""


class ServerFailed(Exception):
    """The server does not do what a client needs; the text says what it has done instead."""


class Refused(ServerFailed):
    """The server has answered ``-ERR``; ``code`` is the response code, or empty."""

    def __init__(self, keyword: str, text: bytes) -> None:
        super().__init__(f'{keyword} was refused: "{printable(text, _MAX_SHOWN)}"')
        code, bracket, _ = text.partition(b"]")
        self.code = code[1:].upper() if bracket and code.startswith(b"[") else b""


class Conversation:
    """A connection to a server, on which lines are sent and received.

    ``header`` is sent first, as a proxy does.  All methods wait for the server, and raise
    :exc:`ServerFailed`.
    """

    def __init__(
        self,
        address: Address,
        *,
        header: bytes = b"",
        reply_timeout: float = REPLY_TIMEOUT,
        total_timeout: float = TOTAL_TIMEOUT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._reply_timeout = reply_timeout
        self._end = clock() + total_timeout
        self._lines: deque[bytes] = deque()
        self._rest = b""
        self.uses_tls = False
        self.greeting = b""
        try:
            self._socket = _connect(address, reply_timeout)
            self._socket.sendall(header)
        except OSError as error:
            raise ServerFailed(f"no connection: {_reason(error)}") from error

    def start_tls(self, context: ssl.SSLContext, name: str) -> None:
        """Start TLS; what was received in cleartext is forgotten."""
        self._lines.clear()
        self._rest = b""
        try:
            self._socket = context.wrap_socket(self._socket, server_hostname=name)
        except ssl.SSLCertVerificationError as error:
            raise ServerFailed(
                f"the certificate cannot be verified: {error.verify_message}"
            ) from error
        except OSError as error:
            raise ServerFailed(f"TLS cannot be started: {_reason(error)}") from error
        self.uses_tls = True

    def send(self, line: bytes) -> None:
        """Send a line, or several that are separated by CRLF."""
        try:
            self._socket.sendall(line + b"\r\n")
        except OSError as error:
            raise ServerFailed(f"the connection is lost: {_reason(error)}") from error

    def ask(self, line: bytes, shown: str = "") -> bytes:
        """Send a command, and return the text of its status line after ``+OK``.

        ``shown`` replaces the command in messages; the default is its keyword.

        :raises Refused: the server has answered ``-ERR``.
        """
        self.send(line)
        return self.status(shown or line.split(b" ")[0].decode("ascii"))

    def status(self, keyword: str) -> bytes:
        """Return the text of a status line after ``+OK``, or after ``+`` (RFC 1734).

        :raises Refused: it is ``-ERR``.
        """
        line = self.line(keyword)
        status, _, text = line.partition(b" ")
        if status.upper() == b"-ERR":
            raise Refused(keyword, text)
        if status.upper() not in (b"+OK", b"+"):
            raise ServerFailed(
                f'instead of the reply to {keyword} came "{printable(line, _MAX_SHOWN)}"'
            )
        return text

    def lines(self, keyword: str, maximum: int | None = None) -> Iterator[bytes]:
        """Yield the lines of a multi-line response without their line ends, dots unstuffed.

        The response may have ``maximum`` octets; the default is ``MAX_OCTETS``.
        """
        octets, maximum = 0, MAX_OCTETS if maximum is None else maximum
        while (line := self.line(keyword)) != b".":
            octets += len(line) + 2
            if octets > maximum:
                raise ServerFailed(f"the response to {keyword} has more than {maximum} octets")
            yield line[1:] if line.startswith(b".") else line

    def line(self, keyword: str) -> bytes:
        """Return the next line, without its line end."""
        deadline = min(self._clock() + self._reply_timeout, self._end)
        while not self._lines:
            *lines, self._rest = (self._rest + self._receive(keyword, deadline)).split(b"\n")
            self._lines.extend(lines)
            if len(self._rest) > MAX_LINE:
                raise ServerFailed(f"{keyword}: a line has more than {MAX_LINE} octets")
        return self._lines.popleft().removesuffix(b"\r")

    def _receive(self, keyword: str, deadline: float) -> bytes:
        remaining = deadline - self._clock()
        if remaining <= 0:
            raise ServerFailed(f"{keyword}: no answer in time")
        try:
            self._socket.settimeout(remaining)
            received = self._socket.recv(1 << 16)
        except OSError as error:
            raise ServerFailed(f"{keyword}: {_reason(error)}") from error
        if not received:
            raise ServerFailed(f"{keyword}: the server has closed the connection")
        return received

    def abandon(self) -> None:
        """Close the connection without QUIT, and wait a moment until the server does so as well."""
        end = self._clock() + 1
        with suppress(OSError):
            self._socket.settimeout(1)
            self._socket.shutdown(socket.SHUT_WR)
            while self._socket.recv(1 << 16) and self._clock() < end:
                pass
        self._socket.close()


def _connect(address: Address, timeout: float) -> socket.socket:
    if not isinstance(address, str):
        return socket.create_connection(address, timeout)
    connected = socket.socket(socket.AF_UNIX)
    connected.settimeout(timeout)
    try:
        connected.connect(address)
    except OSError:
        connected.close()
        raise
    return connected


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return error.strerror or str(error)
