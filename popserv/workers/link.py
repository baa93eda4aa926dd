"""What joins the supervisor and a worker: lines, both ways, over a pair of sockets.

Not a transport of Twisted's: it must know how much waits, and must take the last lines of
a worker whose reactor has ended.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReadWriteDescriptor
from twisted.internet.main import CONNECTION_LOST
from twisted.python.failure import Failure
from zope.interface import implementer

A_READ = 1 << 16
LONGEST = 1 << 20
"""Octets of the longest line; a longer one is heard in pieces."""
BEAT = 10.0
"""Seconds between a worker's signs of life."""
LAST_WORDS = 1.0
"""Seconds that the other end has to take a line when the reactor has ended."""


@implementer(IReadWriteDescriptor)
class Link:
    """One end.  It owns the socket.

    ``hear`` is called with each line, without its end, and ``lost`` once, when nothing more
    can come.
    """

    def __init__(
        self,
        reactor: Any,
        end: socket.socket,
        hear: Callable[[bytes], object],
        lost: Callable[[], object],
    ) -> None:
        self._reactor = reactor
        self._socket = end
        self._hear = hear
        self._lost = lost
        self._heard = b""
        self._waiting: deque[bytes] = deque()
        self._octets = 0
        self._open = True
        self._running = True
        end.setblocking(False)
        reactor.addReader(self)

    @property
    def waiting(self) -> int:
        """Return how many octets wait, as the other end does not read."""
        return self._octets

    def send(self, line: bytes) -> None:
        """Send a line, which has no line end in it; if the other end is gone, do nothing."""
        if not self._open:
            return
        self._waiting.append(line + b"\n")
        self._octets += len(line) + 1
        # Else it is being written already, and this is called from a log in between.
        if len(self._waiting) == 1:
            self.doWrite()
            if self._waiting:
                self._reactor.addWriter(self)

    def finish(self) -> None:
        """Hear what is still there, and close."""
        while self._open and self._read():
            pass
        self.close()

    def close(self) -> None:
        """Let go; ``lost`` is not called."""
        if self._open:
            self._open = False
            self._reactor.removeReader(self)
            self._reactor.removeWriter(self)
            self._socket.close()

    def outlive(self) -> None:
        """Go on sending without the reactor, which is ending; nothing is heard any more."""
        self._running = False
        if self._open:
            self._reactor.removeReader(self)
            self._reactor.removeWriter(self)
            self._socket.settimeout(LAST_WORDS)
            self.doWrite()

    # IReadWriteDescriptor

    def fileno(self) -> int:
        """Return the socket's."""
        return self._socket.fileno()

    def logPrefix(self) -> str:
        """Return what the reactor logs its own faults by."""
        return "link"

    def doRead(self) -> Any:
        """Hear what has come."""
        return CONNECTION_LOST if self._read() == b"" else None

    def doWrite(self) -> None:
        """Send what waits, as far as it goes."""
        try:
            while self._waiting:
                line = self._waiting[0]
                sent = self._socket.send(line)
                self._octets -= sent
                if sent < len(line):
                    self._waiting[0] = line[sent:]
                else:
                    self._waiting.popleft()
        except BlockingIOError:
            return
        except OSError:
            # Gone, or slower than the last words may be; the reactor hears of it by doRead.
            self._octets = 0
            self._waiting.clear()
            self._open = self._running
        if self._running:
            self._reactor.removeWriter(self)

    def connectionLost(self, reason: Failure) -> None:
        """The other end is gone."""
        self.close()
        self._lost()

    def _read(self) -> bytes | None:
        """Hear what has come and return it; nothing at the end, None if there is no more yet."""
        try:
            data = self._socket.recv(A_READ)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        *lines, self._heard = (self._heard + data).split(b"\n")
        if self._heard and (not data or len(self._heard) > LONGEST):
            lines.append(self._heard)
            self._heard = b""
        for line in lines:
            self._hear(line)
        return data
