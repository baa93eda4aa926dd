"""One worker, as its supervisor sees it."""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger, eventFromJSON, globalLogPublisher
from twisted.python.failure import Failure

from popserv.server.listeners import CannotStart
from popserv.workers.link import Link

if TYPE_CHECKING:
    from popserv.workers.supervisor import Supervisor

_log = Logger()

START = 60.0
"""Seconds that the first worker may take until it is ready."""
END = 30.0
"""Seconds that a worker may take to end, and is then killed."""
LONG_LIVED = 60.0
"""Seconds after which a worker that ends is started again as if it were the first time."""
LONGEST_WAIT = 60.0
"""Seconds at most until one that keeps ending is started again."""
SILENCE = 6
"""Beats without a sign of life, after which it is killed; as long as START."""
UNHEARD = 8 << 20
"""Octets that wait for a worker that does not read, beyond which it is killed."""


class WorkerProcess(ProcessProtocol):
    """One worker, through all the processes that it has in its time."""

    ready = False

    def __init__(self, supervisor: Supervisor, number: int, of: int) -> None:
        self._supervisor = supervisor
        self._reactor = supervisor.reactor
        self._number = number
        self._of = of
        self._process: Any = None
        self._link: Link | None = None
        self._output: Link | None = None
        self._again: Any = None
        self._deadline: Any = None
        self._ended: Deferred[None] | None = None
        self._wait = 0.0
        self._silent = 0
        self._began = 0.0
        self._reason = ""

    def start(self, *, must: bool = False) -> None:
        """Start a process.

        :raises CannotStart: it ``must`` come up, and does not; all others are tried again.
        """
        self._again = None
        self._began = self._reactor.seconds()
        self._reason = ""
        self._silent = 0
        part = {"number": self._number, "of": self._of}
        sockets = self._supervisor.opener.descriptors(self._number)
        try:
            self._process, link, output = self._supervisor.launcher.launch(self, part, sockets)
        except OSError as error:
            if must:
                raise CannotStart(
                    f"popserv: a worker cannot be started: {error}; "
                    "whom the server runs as must be able to run Python"
                ) from None
            self._start_again(f"cannot be started: {error}")
            return
        _log.info("worker {number} is process {pid}", number=self._number, pid=self._process.pid)
        if must and not self._comes_up(link, output):
            self._kill()
            raise CannotStart(f"popserv: {self._reason or 'the first worker does not come up'}")
        self._link = Link(self._reactor, link, self._hear, self._link_lost)
        self._output = Link(self._reactor, output, self._hear_output, lambda: None)

    def stop(self) -> Deferred[None]:
        """End it for good; fires when it has ended."""
        if self._again is not None:
            self._again.cancel()
        if self._process is None:
            return succeed(None)
        self._ended = Deferred()
        self._signal("TERM")
        self._kill_soon()
        return self._ended

    def send(self, line: bytes) -> None:
        """Send it a line; if it has not read too many, kill it."""
        if self._link is not None:
            self._link.send(line)
            if self._link.waiting > UNHEARD:
                _log.error("worker {number} does not listen; killed", number=self._number)
                self._kill()

    def count_silence(self) -> None:
        """Kill it if it has given no sign of life for long."""
        self._silent += 1
        # Also on its way to be ready, for clients are given to it meanwhile.
        if self._process is not None and self._silent > SILENCE:
            _log.error("worker {number} gives no sign of life; killed", number=self._number)
            self._kill()

    def processEnded(self, reason: Failure) -> None:
        """Start it again, unless it was to end."""
        for end in (self._link, self._output):
            if end is not None:
                end.finish()
        self._process = self._link = self._output = None
        self.ready = False
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if self._ended is not None:
            self._ended.callback(None)
        else:
            self._start_again(f"ended with {_how(reason.value)}")

    def _start_again(self, why: str) -> None:
        if self._reactor.seconds() - self._began >= LONG_LIVED:
            self._wait = 0.0
        wait, self._wait = self._wait, min(LONGEST_WAIT, max(1.0, 2 * self._wait))
        _log.error(
            "worker {number} {why}; it is started again {when}",
            number=self._number,
            why=why,
            when=f"in {wait:.0f} s" if wait else "at once",
        )
        if wait:
            self._supervisor.opener.pause(self._number)
        self._again = self._reactor.callLater(wait, self.start)

    def _comes_up(self, link: socket.socket, output: socket.socket) -> bool:
        """Wait, in the only way there is before the reactor runs; return whether it is ready."""
        link.settimeout(START)
        output.settimeout(1.0)
        with suppress(OSError), link.makefile("rb", 0) as lines:
            while not (self.ready or self._reason) and (line := lines.readline()):
                self._hear(line.rstrip(b"\n"))
        if not (self.ready or self._reason):
            with suppress(OSError), output.makefile("rb") as lines:
                for line in lines:
                    self._hear_output(line.rstrip(b"\n"))
                    self._reason = line.decode(errors="backslashreplace").strip()
        return self.ready

    def _hear(self, line: bytes) -> None:
        self._silent = 0
        word, _, rest = line.partition(b" ")
        if word == b"log":
            self._publish(rest)
        elif word == b"tell":
            self._supervisor.relay(line, self)
        elif word == b"ready":
            self.ready = True
            self._supervisor.greet(self)
        elif word == b"failed":
            self._reason = str(json.loads(rest))
            _log.error(
                "worker {number} cannot start: {reason}", number=self._number, reason=self._reason
            )

    def _publish(self, text: bytes) -> None:
        try:
            event = eventFromJSON(text.decode())
            system = event.get("log_system")
            if system is None:
                system = f"{event['log_namespace']}#{event['log_level'].name}"
        except (ValueError, LookupError, AttributeError):
            self._hear_output(text)
            return
        globalLogPublisher({**event, "log_system": f"worker {self._number}: {system}"})

    def _hear_output(self, line: bytes) -> None:
        text = line.decode(errors="backslashreplace")
        _log.warn("worker {number} says: {text}", number=self._number, text=text)

    def _link_lost(self) -> None:
        """It is ending."""
        self._kill_soon()

    def _kill_soon(self) -> None:
        if self._deadline is None:
            self._deadline = self._reactor.callLater(END, self._kill_late)

    def _kill_late(self) -> None:
        self._deadline = None
        _log.error("worker {number} does not end; killed", number=self._number)
        self._kill()

    def _kill(self) -> None:
        self._signal("KILL")

    def _signal(self, name: str) -> None:
        with suppress(ProcessExitedAlready):
            self._process.signalProcess(name)


def _how(end: Any) -> str:
    """Return how a process has ended, from what Twisted says of it."""
    if getattr(end, "signal", None) is not None:
        return f"signal {end.signal}"
    return f"exit code {end.exitCode}"
