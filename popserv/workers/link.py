"""The link between the supervisor and a worker: lines in both directions over a socket pair.

The first line is the worker's setup, a JSON object that :class:`popserv.workers.launcher.Launcher`
sends.  Each line after it is a message: a word, and for some words a space and JSON.

Messages of a worker:

``ready``
    The worker accepts connections.
``failed REASON``
    The worker cannot start.
``heartbeat``
    The worker runs; sent every HEARTBEAT_INTERVAL seconds.
``log EVENT``
    An event of the worker's log.
``publish [TOPIC, UPDATE]``
    An update for all other workers.
``ask [NUMBER, TOPIC, QUESTION, SECONDS]``
    A question to all other workers, which have some seconds to answer.
``answer [NUMBER, ANSWER]``
    The answer to a question of the supervisor; without ANSWER if there is none.
``leaving``
    The worker has stopped accepting connections, and exits when its sessions have ended.

Messages of the supervisor:

``publish [TOPIC, UPDATE]``
    An update of another worker.
``cover NUMBERS``
    The numbers of the workers that do not run: this one must accept on their sockets as well.
``replay``
    Another worker has started, and this one must publish everything again.
``ask [NUMBER, TOPIC, QUESTION, SECONDS]``
    A question, of the supervisor or of another worker.
``answers [NUMBER, ANSWERS, MISSING]``
    The answers to a question of the worker, and how many workers have given none.

Link is not a transport of Twisted, because those do not report how many octets are unsent,
and send nothing once the reactor stops; a worker then still logs how its sessions ended.
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

READ_SIZE = 1 << 16
"""Octets of one read."""
MAX_LINE = 1 << 20
"""The maximum octets of a line; a longer one is received in parts."""
HEARTBEAT_INTERVAL = 10.0
"""Seconds between the heartbeats of a worker."""
FINAL_SEND_TIMEOUT = 1.0
"""Seconds in which the other end must read a line that is sent without the reactor."""


@implementer(IReadWriteDescriptor)
class Link:
    """One end of a link.  It owns the socket.

    :param on_line: called with each line that arrives, without its line end.
    :param on_disconnect: called once, when the other end has closed.
    :param accepts_unterminated: whether ``on_line`` also gets a last line without a line end;
        otherwise it is dropped, because the end of the message is missing.
    """

    def __init__(
        self,
        reactor: Any,
        end: socket.socket,
        on_line: Callable[[bytes], object],
        on_disconnect: Callable[[], object],
        *,
        accepts_unterminated: bool = False,
    ) -> None:
        self._reactor = reactor
        self._socket = end
        self._on_line = on_line
        self._on_disconnect = on_disconnect
        self._accepts_unterminated = accepts_unterminated
        self._partial_line = b""
        self._unsent: deque[bytes] = deque()
        self._unsent_octets = 0
        self._is_open = True
        self._uses_reactor = True
        end.setblocking(False)
        reactor.addReader(self)

    @property
    def unsent_octets(self) -> int:
        """The octets that cannot be sent because the other end does not read."""
        return self._unsent_octets

    def send(self, line: bytes) -> None:
        """Send a line, given without its line end; if the other end has closed, do nothing."""
        if not self._is_open:
            return
        self._unsent.append(line + b"\n")
        self._unsent_octets += len(line) + 1
        # With more lines, an earlier one is being sent: by the reactor, or by a call of this
        # method during which an event was logged.
        if len(self._unsent) == 1:
            self.doWrite()
            if self._unsent:
                self._reactor.addWriter(self)

    def read_and_close(self) -> None:
        """Receive the lines that have arrived, then close; ``on_disconnect`` is not called."""
        while self._is_open and self._read():
            pass
        self.close()

    def close(self) -> None:
        """Close the socket; ``on_disconnect`` is not called."""
        if self._is_open:
            self._is_open = False
            self._reactor.removeReader(self)
            self._reactor.removeWriter(self)
            self._socket.close()

    def stop_using_reactor(self) -> None:
        """Send without the reactor from now on, because it is stopping; receive nothing more.

        If the other end does not read a line within FINAL_SEND_TIMEOUT, later lines are dropped.
        """
        self._uses_reactor = False
        if self._is_open:
            self._reactor.removeReader(self)
            self._reactor.removeWriter(self)
            self._socket.settimeout(FINAL_SEND_TIMEOUT)
            self.doWrite()

    # IReadWriteDescriptor

    def fileno(self) -> int:
        """Return the descriptor of the socket."""
        return self._socket.fileno()

    def logPrefix(self) -> str:
        """Return the name under which the reactor logs exceptions of this object."""
        return "link"

    def doRead(self) -> Any:
        """Receive the lines that have arrived."""
        return CONNECTION_LOST if self._read() == b"" else None

    def doWrite(self) -> None:
        """Send as much as the kernel accepts."""
        try:
            while self._unsent:
                line = self._unsent[0]
                sent = self._socket.send(line)
                self._unsent_octets -= sent
                if sent < len(line):
                    self._unsent[0] = line[sent:]
                else:
                    self._unsent.popleft()
        except BlockingIOError:
            return
        except OSError:
            # The other end has closed, which doRead reports to the reactor; or, without the
            # reactor, FINAL_SEND_TIMEOUT has expired.
            self._unsent_octets = 0
            self._unsent.clear()
            self._is_open = self._uses_reactor
        if self._uses_reactor:
            self._reactor.removeWriter(self)

    def connectionLost(self, reason: Failure) -> None:
        """Close, and report that the other end has closed."""
        self.close()
        self._on_disconnect()

    def _read(self) -> bytes | None:
        """Receive lines; return the octets read: empty at the end, None if there are none yet."""
        try:
            data = self._socket.recv(READ_SIZE)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        *lines, self._partial_line = (self._partial_line + data).split(b"\n")
        is_last = self._accepts_unterminated and not data
        if self._partial_line and (is_last or len(self._partial_line) > MAX_LINE):
            lines.append(self._partial_line)
            self._partial_line = b""
        for line in lines:
            self._on_line(line)
        return data
