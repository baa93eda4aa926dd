"""A POP3 client for commands, which waits for the server.

Unlike the standard library's ``poplib``, it reads lines of any length and messages in chunks, and
returns each octet as the server has sent it.

The module has more than 300 lines, because all commands have one connection and its responses.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import suppress
from io import BufferedReader
from types import TracebackType

from popserv.core.printable import printable
from popserv.messages.sizes import MAX_MESSAGE
from popserv.migration.pop3_urls import Security, ServerAddress

_CHUNK = 1 << 15
_MAX_STATUS_LINE = 4096
"""RFC 2449 section 4 allows 512 octets."""

MAX_CAPABILITIES = 1 << 16
MAX_LISTING = 1 << 27
"""The maximum octets of a response to CAPA, and to LIST, UIDL or TOP, which are kept in memory."""

MAX_MESSAGE_OCTETS = 2 * MAX_MESSAGE
"""The maximum octets of a message; a bare LF in a store has two of them."""

TIMEOUT = 600.0
"""Seconds to wait for a server, which may have to read a large maildrop."""


_END_PAUSE, _EARLY_END_PAUSE = 1.0, 30.0
"""Seconds without input after which what may be the end of a message counts as its end.

The second is for a message of which fewer octets have arrived than LIST has told.
"""


class POP3ClientError(OSError):
    """The server cannot be used; the message names it, and what it has said."""


class CommandRefused(POP3ClientError):
    """The server has answered ``-ERR``.

    ``text`` is what follows that, in octets.
    """

    def __init__(self, message: str, text: bytes) -> None:
        super().__init__(message)
        self.text = text


class POP3Client:
    """A connection to a POP3 server.

    TLS starts by STLS (RFC 2595) if the server offers it.  A server without TLS is refused, unless
    it is on this machine or ``security`` is insecure.

    ``timeout`` is the seconds for which the client waits for the server each time.

    All methods raise :exc:`POP3ClientError`, and :exc:`CommandRefused` if a command is refused.
    """

    def __init__(
        self, address: ServerAddress, security: Security, timeout: float = TIMEOUT
    ) -> None:
        self.address = address
        self._security = security
        self._timeout = timeout
        try:
            self._socket = socket.create_connection((address.host, address.port), timeout)
        except OSError as error:
            raise self._error(_reason(error)) from error
        self._open_file()
        try:
            if address.implicit_tls:
                self._start_tls()
            self._status("the greeting")
            if not address.implicit_tls:
                self._secure()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> POP3Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection, without QUIT unless :meth:`quit` was called."""
        with suppress(OSError):
            self._file.close()
        self._socket.close()

    def login(self, user: bytes, password: bytes) -> None:
        """Log in by USER and PASS."""
        self.command(b"USER", user)
        self.command(b"PASS", password)

    def capabilities(self) -> list[bytes] | None:
        """Return the lines of CAPA (RFC 2449), or None if the server does not have it."""
        try:
            return list(self._listing(b"CAPA", MAX_CAPABILITIES))
        except CommandRefused:
            return None

    def sizes(self) -> dict[int, int]:
        """Return the octets of each message, by message-number (LIST)."""
        return {
            number: int(value)
            for number, value in self._numbered(b"LIST", rb"(\d{1,18}) +(\d{1,18})(?: .*)?")
        }

    def unique_ids(self) -> dict[int, bytes]:
        """Return the unique-id of each message, by message-number (UIDL)."""
        return dict(self._numbered(b"UIDL", rb"(\d{1,18}) +([^ ]+) *"))

    def top(self, number: int, lines: int = 0) -> bytes:
        """Return the header of a message, the blank line, and some lines of its body (TOP)."""
        self.command(b"TOP", b"%d %d" % (number, lines))
        return b"".join(self._body("TOP", MAX_LISTING))

    def retrieve(self, number: int, octets: int = 0) -> Iterator[bytes]:
        """Return the octets of a message, in chunks of at most 64 KiB (RETR).

        The line ends are those that the server has sent.  Read all of it before the next command;
        if the iterator is closed before its end, so is the connection.  ``octets`` are those that
        LIST has told.
        """
        self.command(b"RETR", b"%d" % number)
        return self._body("RETR", MAX_MESSAGE_OCTETS, octets)

    def quit(self) -> None:
        """End the session by RSET and QUIT, so that the server changes nothing.

        RSET also removes what some servers, as Dovecot, would record at QUIT: that messages were
        retrieved.
        """
        self.command(b"RSET")
        self.command(b"QUIT")
        self.close()

    def command(self, keyword: bytes, argument: bytes | None = None) -> bytes:
        """Send a command, and return the text of the status line after ``+OK``."""
        line = keyword if argument is None else b"%b %b" % (keyword, argument)
        if re.search(rb"[\r\n\0]", line):
            raise self._error(f"the argument of {keyword.decode()} has a line end or NUL in it")
        if self._has_more():
            raise self._error(f"before {keyword.decode()}, more came than one reply")
        try:
            self._socket.sendall(line + b"\r\n")
        except OSError as error:
            raise self._error(_reason(error)) from error
        return self._status(keyword.decode())

    def _numbered(self, keyword: bytes, form: bytes) -> Iterator[tuple[int, bytes]]:
        for line in self._listing(keyword, MAX_LISTING):
            match = re.fullmatch(form, line)
            if match is None:
                raise self._error(f'{keyword.decode()} has the line "{printable(line)}"')
            yield int(match[1]), match[2]

    def _listing(self, keyword: bytes, maximum: int) -> Sequence[bytes]:
        self.command(keyword)
        octets = b"".join(self._body(keyword.decode(), maximum))
        return octets.replace(b"\r\n", b"\n").split(b"\n")[:-1]

    def _body(self, keyword: str, maximum: int, octets: int = 0) -> Iterator[bytes]:
        """Yield the lines of a multi-line response in chunks, dots unstuffed.

        One with more than ``maximum`` octets is an error, and one with less than ``octets`` may
        come slowly.

        A server whose lines end with CRLF may send a bare LF in a message as it is, and takes what
        follows it for a part of the same line, also a dot.  Others take it for a line end, and so
        complete no message that ends with it.  With a server whose lines end with CRLF, those that
        a mail server has added to the header do.
        """
        chunks: list[bytes] = []
        size = total = 0
        is_complete = has_crlf = False
        try:
            before = b"\r\n"
            while True:
                piece = self._read_line(_CHUNK, keyword)
                if before.endswith(b"\n") and piece.startswith(b"."):
                    if piece not in (b".\r\n", b".\n"):
                        piece = piece[1:]
                    elif (
                        before == b"\r\n"
                        or not has_crlf
                        or not self._has_more(_END_PAUSE if total >= octets else _EARLY_END_PAUSE)
                    ):
                        break
                before = (before + piece)[-2:]
                has_crlf = has_crlf or before == b"\r\n"
                total += len(piece)
                if total > maximum:
                    raise self._error(f"{keyword}: the response has more than {maximum} octets")
                chunks.append(piece)
                size += len(piece)
                if size >= _CHUNK:
                    yield b"".join(chunks)
                    chunks, size = [], 0
            is_complete = True
            if chunks:
                yield b"".join(chunks)
        finally:
            if not is_complete:
                self.close()

    def _has_more(self, pause: float = 0.0) -> bool:
        """Return whether something has come that was not read, or comes in ``pause`` seconds."""
        try:
            self._socket.settimeout(pause)
            try:
                return bool(self._file.peek(1))
            finally:
                self._socket.settimeout(self._timeout)
        except TimeoutError:
            # After that, a socket's file refuses to read.
            self._open_file()
        except (OSError, ValueError):
            # TLS has nothing yet; any other error is that of the next to read or write.
            pass
        return False

    def _status(self, what: str) -> bytes:
        line = self._read_line(_MAX_STATUS_LINE, what).rstrip(b"\r\n")
        status, _, text = line.partition(b" ")
        if status.upper() == b"+OK":
            return text
        if status.upper() == b"-ERR":
            message = f'{what} was refused: "{printable(text)}"'
            raise CommandRefused(str(self._error(message)), text)
        raise self._error(f'instead of the reply to {what} came "{printable(line)}"')

    def _read_line(self, maximum: int, what: str) -> bytes:
        """Read a line, or ``maximum`` octets of it."""
        try:
            line = self._file.readline(maximum)
        except (OSError, ValueError) as error:
            reason = _reason(error) if isinstance(error, OSError) else "the connection is closed"
            raise self._error(f"{what}: {reason}") from error
        if not line:
            raise self._error(f"{what}: the server has closed the connection")
        return line

    def _secure(self) -> None:
        """Start TLS, or check that the connection may do without."""
        capabilities = self.capabilities() or []
        if b"STLS" in [line.strip().upper() for line in capabilities]:
            self.command(b"STLS")
            self._start_tls()
        elif not (self.address.is_loopback or self._security.insecure):
            raise self._error(
                "the server does not offer STLS, so that passwords and mail would be readable on "
                "the way; use pop3s:// or, in a network that you trust, --insecure"
            )

    def _start_tls(self) -> None:
        # What was received in cleartext must not count as received by TLS.
        self._file.close()
        try:
            context = self._security.context()
            self._socket = context.wrap_socket(self._socket, server_hostname=self.address.host)
        except ssl.SSLCertVerificationError as error:
            raise self._error(
                f"the certificate cannot be verified: {error.verify_message}; name its authority "
                "by --ca-file, or use --insecure"
            ) from error
        except OSError as error:
            remedy = "; if TLS does not start at once on this port, use pop3://"
            raise self._error(
                f"TLS: {_reason(error)}{remedy if self.address.implicit_tls else ''}"
            ) from error
        self._open_file()

    def _open_file(self) -> None:
        self._file = BufferedReader(self._socket.makefile("rb", 0), _CHUNK)

    def _error(self, message: str) -> POP3ClientError:
        return POP3ClientError(f"{self.address}: {message}")


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return error.strerror or str(error)
