"""A worker's own process: the same service as that of one process, joined to a supervisor.

What it says and hears is told in :mod:`popserv.workers.supervisor`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import traceback
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import Any

from twisted.application.service import IService
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import ReactorNotRunning
from twisted.internet.task import Cooperator, LoopingCall
from twisted.logger import (
    ILogObserver,
    LogEvent,
    Logger,
    LogLevel,
    eventAsJSON,
    eventAsText,
    globalLogBeginner,
)
from twisted.python import usage
from zope.interface import implementer

from popserv.runtime.bus import WorkerBus
from popserv.server.listeners import CannotStart
from popserv.workers.link import BEAT, Link
from popserv.workers.role import WorkerRole
from popserv.workers.sockets import SocketAdopter

_log = Logger()

GATHERING = 0.05
"""Seconds in which events are gathered, to be sent together: half the cost on a busy server."""
UNREAD_LOG = 1 << 20
"""Octets that may wait for a supervisor that does not read, beyond which no log is sent."""
UNREAD = 8 << 20
"""The same of facts for others."""
LONGEST = 1 << 19
"""Octets of an event; of a longer one the beginning of its text alone is sent."""


def main(descriptor: int) -> None:
    """Be a worker whose supervisor is at the other end of this socket."""
    # From a terminal they come to the whole group; the supervisor decides what they mean.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    link = socket.socket(fileno=descriptor)
    link.set_inheritable(False)
    with link.makefile("rb", 0) as lines:
        line = lines.readline()
    if not line:
        link.close()
    else:
        setup = json.loads(line)
        import_module(setup["reactor"]).install()
        from twisted.internet import reactor

        sys.exit(Worker(reactor, link, setup).run())


@implementer(ILogObserver)
class Worker:
    """A process's part of the server; observes the log."""

    def __init__(self, reactor: Any, link: socket.socket, setup: Mapping[str, Any]) -> None:
        self._reactor = reactor
        self._link = Link(reactor, link, self._hear, self._stop)
        self._setup = setup
        self._events: deque[bytes] = deque()
        self._gathering = False
        self._dropped = 0
        self._ending = False
        self._bus = WorkerBus(self._carry)
        self._cooperator = Cooperator(scheduler=partial(reactor.callLater, 0))
        self._beat = LoopingCall(self._link.send, b"alive")
        self._beat.clock = reactor

    def run(self) -> int:
        """Serve until SIGTERM, or until the supervisor is gone; return the exit code."""
        try:
            service = self._make_service()
            # What was said until now the supervisor has said, who made the same service.
            globalLogBeginner.beginLoggingTo([self], discardBuffer=True)
            service.privilegedStartService()
            service.startService()
        except (usage.UsageError, CannotStart) as error:
            return self._failed(str(error))
        except Exception as error:
            traceback.print_exc()
            return self._failed(f"{type(error).__name__}: {error}")
        self._reactor.addSystemEventTrigger("before", "shutdown", self._end, service)
        self._reactor.callWhenRunning(signal.signal, signal.SIGTERM, self._terminated)
        self._beat.start(BEAT, now=False)
        self._link.send(b"ready")
        self._reactor.run()
        self._send_events()
        return 0

    def __call__(self, event: LogEvent) -> None:
        """Send an event to the supervisor's log."""
        # From any thread, and from anywhere in the reactor's, where the collector can log, too.
        self._events.append(b"log " + as_json(event))
        if self._ending:
            self._send_events()
        elif event.get("log_level", LogLevel.info) >= LogLevel.warn:
            # It may be why this process ends.
            self._reactor.callFromThread(self._send_events)
        elif not self._gathering:
            self._gathering = True
            self._reactor.callFromThread(self._gather_events)

    def _gather_events(self) -> None:
        self._reactor.callLater(GATHERING, self._send_events)

    def _send_events(self) -> None:
        self._gathering = False
        events = []
        while self._events:
            events.append(self._events.popleft())
        if self._link.waiting > UNREAD_LOG:
            self._dropped += len(events)
        elif events:
            self._link.send(b"\n".join(events))
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                _log.warn("before this, {dropped} events went unread and are lost", dropped=dropped)

    def _make_service(self) -> IService:
        # Not before there is a reactor.
        maker = import_module(self._setup["maker"])

        here = os.getcwd()
        # Not there for whom the worker is, or behind a chroot: then nothing relative works.
        with suppress(OSError):
            os.chdir(self._setup["directory"])
        options = maker.Options()
        options.parseOptions(self._setup["arguments"])
        service: IService = maker.makeService(
            options,
            WorkerRole(
                self._setup["number"],
                self._setup["of"],
                self._bus,
                SocketAdopter(self._reactor, self._setup["sockets"]),
            ),
        )
        os.chdir(here)
        return service

    def _end(self, service: IService) -> Deferred[None]:
        self._ending = True
        self._beat.stop()
        self._send_events()
        stopped: Deferred[None] = maybeDeferred(service.stopService)
        # The end of the sessions is still to be told.
        return stopped.addBoth(lambda _: self._link.outlive())

    def _failed(self, reason: str) -> int:
        self._link.send(b"failed " + json.dumps(reason).encode())
        return 1

    def _terminated(self, number: int, frame: object) -> None:
        # Twisted's own handler takes no second SIGTERM, which comes if all get one and the
        # supervisor passes its own on.
        self._reactor.callFromThread(self._stop)

    def _stop(self) -> None:
        with suppress(ReactorNotRunning):
            self._reactor.stop()

    def _carry(self, topic: str, fact: Any) -> None:
        if self._link.waiting <= UNREAD:
            self._link.send(b"tell " + json.dumps([topic, fact]).encode())

    def _hear(self, line: bytes) -> None:
        word, _, rest = line.partition(b" ")
        try:
            if word == b"tell":
                self._bus.receive(*json.loads(rest))
            elif word == b"tell-all":
                # It may be much, and clients and the link need their turns.
                self._cooperator.cooperate(self._bus.replay_all())
        except Exception:
            _log.failure("invalid message from another worker")


def as_json(event: LogEvent) -> bytes:
    """Return an event in a line."""
    # The objects that logged it mean nothing elsewhere.
    event = {key: event[key] for key in event if key not in ("log_logger", "log_source")}
    # JSON would have of a failure all but what the exception says.
    if "log_failure" not in event:
        try:
            text = eventAsJSON(event).encode()
            if len(text) <= LONGEST:
                return text
        except Exception as error:
            event.setdefault("not_json", repr(error))
    known = ("log_time", "log_level", "log_namespace", "log_system")
    short: LogEvent = {key: event[key] for key in known if key in event}
    short["text"] = eventAsText(event, includeTimestamp=False, includeSystem=False)[: LONGEST >> 5]
    return eventAsJSON({**short, "log_format": "{text}"}).encode()
