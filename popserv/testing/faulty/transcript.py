"""The transcript of a server: what its clients and it have sent."""

from __future__ import annotations

from typing import Literal, NamedTuple

Sender = Literal["C", "S"]
"""Who has sent a line: the client or the server."""


class Line(NamedTuple):
    """A line of a transcript, without its line end; ``str(line)`` is like ``C: STAT``.

    ``connection`` is the number of the connection, from 1.  ``text`` is without TLS.
    """

    connection: int
    sender: Sender
    text: bytes

    def __str__(self) -> str:
        return f"{self.sender}: {self.text.decode('utf-8', 'backslashreplace')}"


class Transcript:
    """Records the connections of a server, in the order in which they send."""

    def __init__(self) -> None:
        self._connections = 0
        self._sent: list[tuple[int, Sender, list[bytes]]] = []

    def open_connection(self) -> int:
        """Return the number of a new connection."""
        self._connections += 1
        return self._connections

    def record(self, connection: int, sender: Sender, octets: bytes) -> None:
        """Record octets, which may be a part of a line or several lines, or none."""
        if not octets:
            return
        if self._sent and self._sent[-1][:2] == (connection, sender):
            self._sent[-1][2].append(octets)
        else:
            self._sent.append((connection, sender, [octets]))

    def lines(self) -> list[Line]:
        """Return all that was recorded; the last line of a connection may be incomplete."""
        return [
            Line(connection, sender, text.removesuffix(b"\r"))
            for connection, sender, pieces in self._sent
            for text in b"".join(pieces).removesuffix(b"\n").split(b"\n")
        ]
