"""A worker process: the service of a server with one process, and a link to the supervisor.

:mod:`popserv.workers.link` describes the messages between the supervisor and its workers.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import Any

from twisted.application.service import IService
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import ReactorNotRunning
from twisted.internet.task import Cooperator, LoopingCall
from twisted.logger import Logger, globalLogBeginner
from twisted.python import usage

from popserv.listening.listeners import CannotStart
from popserv.runtime.bus import Answers, WorkerBus
from popserv.workers.link import HEARTBEAT_INTERVAL, Link
from popserv.workers.log_forwarding import LogForwarder
from popserv.workers.questions import answer_line, question_line
from popserv.workers.role import WorkerRole
from popserv.workers.sockets import SocketAdopter

_log = Logger()

MAX_UNSENT = 8 << 20
"""Octets that the supervisor may leave unread before updates are dropped."""


def main(descriptor: int) -> None:
    """Run a worker; the descriptor is this end of the link."""
    # A terminal sends it to the whole process group; the supervisor acts on it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
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


class Worker:
    """The worker that runs in this process.

    :param link: this end of the link.
    :param setup: the setup that :class:`popserv.workers.launcher.Launcher` has sent.
    """

    def __init__(self, reactor: Any, link: socket.socket, setup: Mapping[str, Any]) -> None:
        self._reactor = reactor
        self._setup = setup
        self._link = Link(reactor, link, self._message_received, self._stop)
        self._log_forwarder = LogForwarder(reactor, self._link)
        self._bus = WorkerBus(self._publish, self._ask)
        # The questions of this worker that wait for answers.
        self._asked: dict[int, Deferred[Answers]] = {}
        self._last_question = 0
        self._cooperator = Cooperator(scheduler=partial(reactor.callLater, 0))
        self._heartbeat = LoopingCall(self._link.send, b"heartbeat")
        self._heartbeat.clock = reactor

    def run(self) -> int:
        """Run until SIGTERM, or until the supervisor has closed the link; return the exit code."""
        try:
            service = self._make_service()
            # The supervisor has made the same service, and has logged the same events.
            globalLogBeginner.beginLoggingTo([self._log_forwarder], discardBuffer=True)
            service.privilegedStartService()
            service.startService()
        except (usage.UsageError, CannotStart) as error:
            return self._fail(str(error))
        except Exception as error:
            traceback.print_exc()
            return self._fail(f"{type(error).__name__}: {error}")
        self._reactor.addSystemEventTrigger("before", "shutdown", self._shut_down, service)
        self._reactor.callWhenRunning(signal.signal, signal.SIGTERM, self._sigterm_received)
        self._heartbeat.start(HEARTBEAT_INTERVAL, now=False)
        self._link.send(b"ready")
        self._reactor.run()
        self._log_forwarder.flush()
        return 0

    def _make_service(self) -> IService:
        # Not imported earlier, because it may import the reactor, which main installs.
        service_module = import_module(self._setup["service_module"])

        previous = os.getcwd()
        # The user of --uid may have no access to it, or --chroot may hide it; then relative paths
        # cannot be used.
        with suppress(OSError):
            os.chdir(self._setup["directory"])
        options = service_module.Options()
        options.parseOptions(self._setup["arguments"])
        self._sockets = SocketAdopter(self._reactor, self._setup["number"], self._setup["sockets"])
        service: IService = service_module.makeService(
            options,
            WorkerRole(
                self._setup["number"],
                self._setup["count"],
                self._bus,
                self._sockets,
                partial(self._link.send, b"leaving"),
            ),
        )
        os.chdir(previous)
        return service

    def _shut_down(self, service: IService) -> Deferred[None]:
        # Until then, sessions may go on for a long time.
        return maybeDeferred(service.stopService).addBoth(lambda _: self._service_stopped())

    def _service_stopped(self) -> None:
        self._heartbeat.stop()
        self._log_forwarder.stop_batching()
        # Sessions still log how they ended.
        self._link.stop_using_reactor()

    def _fail(self, reason: str) -> int:
        self._link.send(b"failed " + json.dumps(reason).encode())
        return 1

    def _sigterm_received(self, number: int, frame: object) -> None:
        # Twisted's own handler logs an error at a second SIGTERM, which arrives if a service
        # manager signals all processes and the supervisor then stops its workers.
        self._reactor.callFromThread(self._stop)

    def _stop(self) -> None:
        with suppress(ReactorNotRunning):
            self._reactor.stop()

    def _publish(self, topic: str, update: Any) -> None:
        if self._link.unsent_octets <= MAX_UNSENT:
            self._link.send(b"publish " + json.dumps([topic, update]).encode())

    def _ask(self, topic: str, question: Any, seconds: float) -> Deferred[Answers]:
        self._last_question += 1
        number = self._last_question
        # The supervisor always answers: it counts the workers that do not.
        answers: Deferred[Answers] = Deferred()
        self._asked[number] = answers
        self._link.send(question_line(number, topic, question, seconds))
        return answers

    def _answer(self, number: int, topic: str, question: Any, seconds: float) -> None:
        answered = self._bus.ask_here(topic, question)
        answered.addCallback(lambda answers: self._link.send(answer_line(number, answers)))

    def _message_received(self, line: bytes) -> None:
        word, _, argument = line.partition(b" ")
        try:
            if word == b"publish":
                self._bus.receive(*json.loads(argument))
            elif word == b"ask":
                self._answer(*json.loads(argument))
            elif word == b"answers":
                number, given, missing = json.loads(argument)
                self._asked.pop(number).callback(Answers(given, missing))
            elif word == b"cover":
                self._sockets.cover(json.loads(argument))
            elif word == b"replay":
                # In steps, because many updates would block clients and the link.
                self._cooperator.cooperate(self._bus.replay_all())
        except Exception:
            _log.failure("invalid message from another worker")
