"""The service of ``twistd pop3 --workers``: opens the sockets, runs workers, relays messages.

:mod:`popserv.workers.link` describes the messages between the supervisor and its workers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from zope.interface import implementer

from popserv.interfaces import IReloadable
from popserv.listening.drain import STOP_TIMEOUT
from popserv.listening.listeners import CannotStart, Listeners
from popserv.listening.reactor import AddressFamilyReactor
from popserv.runtime.bus import QUESTION_TIMEOUT, Answers
from popserv.workers.launcher import Launcher
from popserv.workers.link import HEARTBEAT_INTERVAL
from popserv.workers.questions import Questions, answers_line
from popserv.workers.sockets import SocketOpener
from popserv.workers.worker_process import WorkerProcess

_log = Logger()


@implementer(IReloadable)
class Supervisor(Listeners):
    """A service that runs worker processes, which accept connections on its sockets.

    Its child services must use :attr:`opener` as their reactor.

    :param count: the number of workers.
    :param service_module: the name of the module whose ``Options`` and ``makeService`` make
        the service of each worker.
    :param arguments: the command line of ``twistd pop3``.
    :ivar leaving: the workers that were replaced, or will be, and whose sessions have not ended.
    """

    def __init__(
        self, count: int, service_module: str, arguments: Sequence[str], reactor: Any = None
    ) -> None:
        super().__init__()
        if reactor is None:
            from twisted.internet import reactor
        self.opener = SocketOpener(AddressFamilyReactor(reactor), count)
        self._count = count
        self._reactor = reactor
        self._launcher = Launcher(service_module, arguments, reactor)
        self._stop_timeout = STOP_TIMEOUT
        self._questions = Questions(reactor)
        self.workers = [self._new_worker(number) for number in range(1, count + 1)]
        self.leaving: list[WorkerProcess] = []
        self._candidate: WorkerProcess | None = None
        self._candidate_ready: Deferred[None] | None = None
        self._heartbeat_check = LoopingCall(self._check_heartbeats)
        self._heartbeat_check.clock = reactor

    def privilegedStartService(self) -> None:
        """Open all sockets.

        :raises CannotStart: a port cannot be bound, or an endpoint opens no socket.
        """
        super().privilegedStartService()
        if len(self.opener.endpoints) < len(self.services):
            raise CannotStart(
                "popserv: workers cannot share one of the endpoints of --listen, --listen-tls and "
                "--preauth; use tcp:, ssl:, unix: or systemd:, or omit --workers"
            )

    def startService(self) -> None:
        """Start the first worker, wait until it is ready, and start the others.

        :raises CannotStart: the first worker cannot start.
        """
        super().startService()
        first, *others = self.workers
        first.start_and_wait()
        for worker in others:
            worker.start()
        self._cover()
        self._heartbeat_check.start(HEARTBEAT_INTERVAL, now=False)

    def stopService(self) -> Deferred[Any]:
        """Close the sockets, and stop the workers; the Deferred fires when all have exited."""
        if self._heartbeat_check.running:
            self._heartbeat_check.stop()
        # Another server can use the same addresses while sessions end.
        self.opener.close()
        closed: Deferred[Any] = super().stopService()
        stopped: Deferred[Any] = DeferredList([worker.stop() for worker in self._processes()])
        return stopped.addCallback(lambda _: closed)

    def reload(self) -> None:
        """Pass SIGHUP on to the workers; see :class:`popserv.interfaces.IReloadable`."""
        for worker in self._processes():
            worker.reload()

    def ask(
        self, topic: str, question: Any, seconds: float = QUESTION_TIMEOUT
    ) -> Deferred[Answers]:
        """Ask all workers, which have some seconds to answer; see WorkerBus."""
        return self._ask(None, topic, question, seconds)

    def wait_for_sessions(self, seconds: float) -> None:
        """Allow workers this many seconds more to exit, in which their sessions may end."""
        self._stop_timeout = STOP_TIMEOUT + seconds
        for worker in self._processes():
            worker.allow(self._stop_timeout)

    def overview(self) -> Sequence[Mapping[str, Any]]:
        """Return number, pid, state and uptime of each process, in the order of the pids."""
        processes = [
            {
                "number": each.number,
                "pid": each.pid,
                "state": "leaving"
                if each.is_leaving
                else "serving"
                if each.is_ready
                else "starting",
                "uptime": round(each.uptime, 1),
            }
            for each in self._processes()
            if each.pid is not None
        ]
        return sorted(processes, key=lambda each: each["pid"])

    # Replacing workers

    @property
    def is_replacing(self) -> bool:
        """Whether workers are being replaced."""
        return self._candidate is not None

    def replace_workers(self) -> Deferred[None]:
        """Replace each worker by a new process, one after the other, so that no client is refused.

        A new process accepts connections before its predecessor stops to do so.  If one cannot
        start, that is logged, and the remaining workers stay.

        :raises RuntimeError: they are being replaced already.
        """
        if self.is_replacing:
            raise RuntimeError("the workers are being replaced already")
        return Deferred.fromCoroutine(self._replace_workers())

    async def _replace_workers(self) -> None:
        for at, number in enumerate(range(1, self._count + 1)):
            candidate = self._candidate = self._new_worker(number, is_candidate=True)
            ready: Deferred[None] = Deferred()
            self._candidate_ready = ready
            candidate.start()
            await ready
            if not self.running:
                # The candidate is being stopped, too.
                return
            self._candidate = None
            if not candidate.is_ready:
                _log.error(
                    "worker {number} is not replaced, and those after it neither: {reason}",
                    number=number,
                    reason=candidate.failure_reason or "the new process has ended",
                )
                return
            candidate.is_candidate = False
            previous, self.workers[at] = self.workers[at], candidate
            self._cover()
            self.leaving.append(previous)
            previous.leave()

    # WorkerEvents

    def message_received(self, word: bytes, line: bytes, worker: WorkerProcess) -> None:
        """Relay an update, or process a question or an answer."""
        if word == b"publish":
            for each in self._processes():
                if each is not worker:
                    each.send(line)
        elif word == b"answer":
            self._questions.receive(worker, line.partition(b" ")[2])
        else:
            number, topic, question, seconds = json.loads(line.partition(b" ")[2])
            self._ask(worker, topic, question, seconds).addCallback(
                lambda answers: worker.send(answers_line(number, answers))
            )

    def worker_ready(self, worker: WorkerProcess) -> None:
        """Ask one worker to publish everything again, for a worker that has just started."""
        for each in self.workers:
            if each.is_ready and each is not worker:
                each.send(b"replay")
                break
        self._cover()
        self._candidate_finished(worker)

    def worker_leaving(self, worker: WorkerProcess) -> None:
        """Start the successor of a worker that has stopped accepting connections."""
        at = self.workers.index(worker)
        self.leaving.append(worker)
        self.workers[at] = self._new_worker(at + 1)
        self.workers[at].start()
        self._cover()

    def worker_ended(self, worker: WorkerProcess) -> None:
        """Forget a worker that was leaving, and expect no more answers."""
        self._questions.forget(worker)
        if worker in self.leaving:
            self.leaving.remove(worker)
        self._cover()
        self._candidate_finished(worker)

    def _cover(self) -> None:
        """Have the workers accept on the sockets of those that do not accept connections."""
        missing = [each.number for each in self.workers if not each.is_accepting]
        for each in self.workers:
            each.cover(missing)

    def _candidate_finished(self, worker: WorkerProcess) -> None:
        ready = self._candidate_ready
        if worker is self._candidate and ready is not None:
            self._candidate_ready = None
            ready.callback(None)

    def _new_worker(self, number: int, *, is_candidate: bool = False) -> WorkerProcess:
        worker = WorkerProcess(
            number,
            self._count,
            launcher=self._launcher,
            opener=self.opener,
            reactor=self._reactor,
            events=self,
            is_candidate=is_candidate,
        )
        worker.stop_timeout = self._stop_timeout
        return worker

    def _processes(self) -> Iterator[WorkerProcess]:
        """Yield all workers: those that serve, those that are leaving, and the candidate."""
        candidate = [] if self._candidate is None else [self._candidate]
        yield from [*self.workers, *self.leaving, *candidate]

    def _ask(
        self, asking: WorkerProcess | None, topic: str, question: Any, seconds: float
    ) -> Deferred[Answers]:
        asked = [each for each in self._processes() if each.is_ready and each is not asking]
        return self._questions.ask(asked, topic, question, seconds)

    def _check_heartbeats(self) -> None:
        for worker in self._processes():
            worker.check_heartbeat()
        self._cover()
