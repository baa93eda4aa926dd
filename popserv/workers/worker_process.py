"""A worker in the supervisor: starts, monitors, restarts and stops the worker's process.

The module has more than 300 lines, because each of these depends on the state of the process.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger, eventFromJSON, globalLogPublisher
from twisted.python.failure import Failure

from popserv.listening.drain import STOP_TIMEOUT
from popserv.listening.listeners import CannotStart
from popserv.workers.launcher import Launcher
from popserv.workers.link import Link
from popserv.workers.sockets import SocketOpener
from popserv.workers.worker_events import WorkerEvents

_log = Logger()

START_TIMEOUT = 60.0
"""Seconds that the first worker has to become ready."""
MAX_RESTART_DELAY = 60.0
"""The maximum delay before a restart, in seconds; the delays are 0, 1, 2, 4 and so on."""
RESTART_DELAY_RESET = 60.0
"""Seconds that a worker must have run for its next restart to have no delay."""
MAX_MISSED_HEARTBEATS = 6
"""Consecutive heartbeats that a worker may miss before it is killed.

A worker sends none while it starts, so they must last at least as long as START_TIMEOUT.
"""
MAX_SILENCE = 2
"""Consecutive heartbeats that a worker may miss before others accept on its sockets as well."""
MAX_UNSENT = 8 << 20
"""Octets that a worker may leave unread before it is killed."""


class WorkerProcess(ProcessProtocol):
    """One worker.  When its process exits, another process takes its place.

    A candidate, which is to replace another one, is not restarted, nor is one that is leaving.

    :param number: the worker's number, from 1 to ``count``.
    :ivar failure_reason: why the process could not start, if it has said so.
    :ivar stop_timeout: the seconds that the process has to exit before it is killed; see
        :meth:`allow`.
    """

    is_ready = False
    is_leaving = False
    failure_reason = ""
    stop_timeout = STOP_TIMEOUT

    def __init__(
        self,
        number: int,
        count: int,
        *,
        launcher: Launcher,
        opener: SocketOpener,
        reactor: Any,
        events: WorkerEvents,
        is_candidate: bool = False,
    ) -> None:
        self.number = number
        self._count = count
        self._launcher = launcher
        self._opener = opener
        self._reactor = reactor
        self._events = events
        self.is_candidate = is_candidate
        self._process: Any = None
        self._link: Link | None = None
        self._output: Link | None = None
        self._started_at = 0.0
        self._missed_heartbeats = 0
        self._covered: Sequence[int] = []
        self._restart_delay = 0.0
        self._restart_call: Any = None
        self._kill_call: Any = None
        # When the time to exit has begun.
        self._exit_awaited_at = 0.0
        self._stopped: Deferred[None] | None = None

    def start_and_wait(self) -> None:
        """Start the process, and block until it is ready.

        :raises CannotStart: it does not become ready within START_TIMEOUT.
        """
        try:
            link, output = self._launch()
        except OSError as error:
            raise CannotStart(
                f"popserv: a worker cannot be started: {error}; the user that the server runs as "
                "(twistd's --uid) must be able to run Python"
            ) from None
        if not self._wait_until_ready(link, output):
            self._send_signal("KILL")
            reason = self.failure_reason or "the first worker did not become ready"
            raise CannotStart(f"popserv: {reason}")
        self._connect(link, output)

    @property
    def pid(self) -> int | None:
        """The process ID, or None if there is no process."""
        return None if self._process is None else self._process.pid

    @property
    def is_accepting(self) -> bool:
        """Whether the worker accepts connections, as far as its heartbeats tell."""
        return self.is_ready and self._missed_heartbeats < MAX_SILENCE

    @property
    def uptime(self) -> float:
        """The seconds since the process was started."""
        return float(self._reactor.seconds() - self._started_at)

    def start(self) -> None:
        """Start the process; if that fails, log why and try again later."""
        self._restart_call = None
        try:
            link, output = self._launch()
        except OSError as error:
            self.failure_reason = f"cannot be started: {error}"
            self._end(self.failure_reason)
        else:
            self._connect(link, output)

    def leave(self) -> None:
        """Have the process stop accepting connections, and exit when its sessions have ended."""
        self._note_leaving()
        if self._process is None:
            self._cancel_restart()
            self._events.worker_ended(self)
        else:
            self._send_signal("TERM")

    def stop(self) -> Deferred[None]:
        """Stop the process and do not restart it; the Deferred fires when it has exited."""
        self._cancel_restart()
        if self._process is None:
            return succeed(None)
        self._stopped = Deferred()
        self._send_signal("TERM")
        self._schedule_kill()
        return self._stopped

    def allow(self, seconds: float) -> None:
        """Set ``stop_timeout``, also for a process that is to exit already."""
        self.stop_timeout = seconds
        if self._kill_call is not None:
            left = self._exit_awaited_at + seconds - self._reactor.seconds()
            # It may not know yet that its sessions have less time.
            self._kill_call.reset(max(STOP_TIMEOUT, left))

    def reload(self) -> None:
        """Send SIGHUP to the process, if it runs; it is handled once the process has started."""
        if self._process is not None:
            self._send_signal("HUP")

    def cover(self, numbers: Sequence[int]) -> None:
        """Have the worker accept on the sockets of these workers, too."""
        if self.is_ready and self._link is not None and numbers != self._covered:
            self._covered = numbers
            self.send(b"cover " + json.dumps(numbers).encode())

    def send(self, line: bytes) -> None:
        """Send a line to the worker; kill it if more than MAX_UNSENT octets are unread."""
        if self._link is not None:
            self._link.send(line)
            if self._link.unsent_octets > MAX_UNSENT:
                _log.error(
                    "worker {number} does not read from the supervisor; killed",
                    number=self.number,
                )
                self._send_signal("KILL")

    def check_heartbeat(self) -> None:
        """Count a missed heartbeat, and kill the worker if there were too many.

        To be called once in each HEARTBEAT_INTERVAL.  Every line from the worker counts as a
        heartbeat.
        """
        self._missed_heartbeats += 1
        # Also while it starts: its sockets queue connections that no process accepts.
        if self._process is not None and self._missed_heartbeats > MAX_MISSED_HEARTBEATS:
            _log.error("worker {number} sent no heartbeat; killed", number=self.number)
            self._send_signal("KILL")

    def processEnded(self, reason: Failure) -> None:
        """Restart the process, unless :meth:`stop` was called."""
        if self._process is None:
            # If a process ends at once, Twisted calls this before spawnProcess has returned.
            self._reactor.callLater(0, self.processEnded, reason)
            return
        for each in (self._link, self._output):
            if each is not None:
                each.read_and_close()
        self._process = self._link = self._output = None
        self.is_ready = False
        if self._kill_call is not None:
            self._kill_call.cancel()
            self._kill_call = None
        if self._stopped is not None:
            self._stopped.callback(None)
        else:
            self._end(f"exited with {_status(reason.value)}")

    def _launch(self) -> tuple[socket.socket, socket.socket]:
        self._started_at = self._reactor.seconds()
        self.failure_reason = ""
        self._missed_heartbeats = 0
        self._covered = []
        role = {"number": self.number, "count": self._count}
        sockets = self._opener.descriptors()
        self._process, link, output = self._launcher.launch(self, role, sockets)
        _log.info("worker {number} started, pid {pid}", number=self.number, pid=self._process.pid)
        return link, output

    def _connect(self, link: socket.socket, output: socket.socket) -> None:
        self._link = Link(self._reactor, link, self._message_received, self._schedule_kill)
        self._output = Link(
            self._reactor, output, self._log_output, lambda: None, accepts_unterminated=True
        )

    def _wait_until_ready(self, link: socket.socket, output: socket.socket) -> bool:
        """Read the sockets directly, because the reactor does not run yet."""
        link.settimeout(START_TIMEOUT)
        output.settimeout(1.0)
        with suppress(OSError), link.makefile("rb", 0) as lines:
            while not (self.is_ready or self.failure_reason):
                line = lines.readline()
                if not line.endswith(b"\n"):
                    break
                self._message_received(line.rstrip(b"\n"))
        if not (self.is_ready or self.failure_reason):
            # The last line is what Python printed before it exited.
            with suppress(OSError), output.makefile("rb") as lines:
                for line in lines:
                    self._log_output(line.rstrip(b"\n"))
                    self.failure_reason = line.decode(errors="backslashreplace").strip()
        return self.is_ready

    def _end(self, why: str) -> None:
        """Restart the process, unless it was a candidate or leaving."""
        if not (self.is_candidate or self.is_leaving):
            self._restart(why)
        self._events.worker_ended(self)

    def _note_leaving(self) -> None:
        self.is_leaving = True
        if self._process is not None:
            self._schedule_kill()

    def _cancel_restart(self) -> None:
        if self._restart_call is not None:
            self._restart_call.cancel()
            self._restart_call = None

    def _restart(self, why: str) -> None:
        if self._reactor.seconds() - self._started_at >= RESTART_DELAY_RESET:
            self._restart_delay = 0.0
        delay = self._restart_delay
        self._restart_delay = min(MAX_RESTART_DELAY, max(1.0, 2 * delay))
        _log.error(
            "worker {number} {why}; restarting {when}",
            number=self.number,
            why=why,
            when=f"in {delay:.0f} s" if delay else "at once",
        )
        self._restart_call = self._reactor.callLater(delay, self.start)

    def _message_received(self, line: bytes) -> None:
        self._missed_heartbeats = 0
        try:
            self._process_message(line)
        except Exception:
            # It may be the last one, which processEnded reads.
            _log.failure("invalid message from worker {number}", number=self.number)

    def _process_message(self, line: bytes) -> None:
        word, _, argument = line.partition(b" ")
        if word == b"log":
            self._log_event(argument)
        elif word in (b"publish", b"ask", b"answer"):
            self._events.message_received(word, line, self)
        elif word == b"ready":
            self.is_ready = True
            self._events.worker_ready(self)
        elif word == b"leaving" and not self.is_leaving and self._stopped is None:
            self._note_leaving()
            self._events.worker_leaving(self)
        elif word == b"failed":
            self.failure_reason = str(json.loads(argument))
            _log.error(
                "worker {number} cannot start: {reason}",
                number=self.number,
                reason=self.failure_reason,
            )

    def _log_event(self, text: bytes) -> None:
        try:
            event = eventFromJSON(text.decode())
            system = event.get("log_system")
            if system is None:
                system = f"{event['log_namespace']}#{event['log_level'].name}"
        except (ValueError, LookupError, AttributeError):
            self._log_output(text)
            return
        log_system = f"worker {self.number}: {system}"
        globalLogPublisher({**event, "log_system": log_system, "log_worker": self.number})

    def _log_output(self, line: bytes) -> None:
        text = line.decode(errors="backslashreplace")
        _log.warn("worker {number} output: {text}", number=self.number, text=text)

    def _schedule_kill(self) -> None:
        """Kill the process if it does not exit in time."""
        if self._kill_call is None:
            self._exit_awaited_at = self._reactor.seconds()
            self._kill_call = self._reactor.callLater(self.stop_timeout, self._kill_after_timeout)

    def _kill_after_timeout(self) -> None:
        self._kill_call = None
        _log.error("worker {number} does not stop; killed", number=self.number)
        self._send_signal("KILL")

    def _send_signal(self, name: str) -> None:
        with suppress(ProcessExitedAlready):
            self._process.signalProcess(name)


def _status(end: Any) -> str:
    """Return the exit status of a process, from a ProcessDone or ProcessTerminated."""
    if getattr(end, "signal", None) is not None:
        return f"signal {end.signal}"
    return f"code {end.exitCode}"
