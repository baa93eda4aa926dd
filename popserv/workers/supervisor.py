"""What twistd runs if there are several workers: it opens, starts, restarts and relays.

A worker, see :mod:`popserv.workers.worker`, says to the supervisor, a line each:

``log EVENT``
    an event of its log, as JSON
``tell TOPIC-AND-FACT``
    for all other workers
``alive``
    every BEAT seconds
``ready``
    it listens
``failed REASON``
    it cannot start, and why, as JSON

and hears ``tell TOPIC-AND-FACT``, and ``tell-all`` when another one has begun.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import LoopingCall

from popserv.server.listeners import CannotStart, Listeners
from popserv.workers.launcher import Launcher
from popserv.workers.link import BEAT
from popserv.workers.sockets import SocketOpener
from popserv.workers.worker_process import WorkerProcess


class Supervisor(Listeners):
    """The service of so many workers, with the ``arguments`` of ``twistd pop3``.

    ``maker`` names the module whose ``Options`` and ``makeService`` each of them uses.

    Its children listen on :attr:`opener`.

    :raises CannotStart: when it is started and the first worker does not come up.
    """

    def __init__(
        self, workers: int, maker: str, arguments: Sequence[str], reactor: Any = None
    ) -> None:
        super().__init__()
        if reactor is None:
            from twisted.internet import reactor
        self.reactor: Any = reactor
        self.opener = SocketOpener(reactor, workers)
        self.launcher = Launcher(maker, arguments, reactor)
        self.workers = [WorkerProcess(self, number, workers) for number in range(1, workers + 1)]
        self._beat = LoopingCall(self._look_after)
        self._beat.clock = reactor

    def privilegedStartService(self) -> None:
        """Open all sockets."""
        super().privilegedStartService()
        if len(self.opener.listeners) < len(self.services):
            raise CannotStart(
                "popserv: one of --listen and --listen-tls is nothing that workers can share; "
                "give tcp:, ssl:, unix: or systemd:, or leave --workers out"
            )

    def startService(self) -> None:
        """Start the first worker, and once it has come up, the others."""
        super().startService()
        first, *others = self.workers
        first.start(must=True)
        for worker in others:
            worker.start()
        self._beat.start(BEAT, now=False)

    def stopService(self) -> Deferred[Any]:
        """End the workers; when they have ended, close the sockets."""
        if self._beat.running:
            self._beat.stop()
        ended: Deferred[Any] = DeferredList([worker.stop() for worker in self.workers])

        def close(_: object) -> Deferred[Any]:
            self.opener.close()
            closed: Deferred[Any] = super(Supervisor, self).stopService()
            return closed

        return ended.addCallback(close)

    def relay(self, line: bytes, teller: WorkerProcess) -> None:
        """Send a line to all others."""
        for worker in self.workers:
            if worker is not teller:
                worker.send(line)

    def greet(self, newcomer: WorkerProcess) -> None:
        """Have somebody tell everything for one who has just begun."""
        for worker in self.workers:
            if worker.ready and worker is not newcomer:
                worker.send(b"tell-all")
                break

    def _look_after(self) -> None:
        for worker in self.workers:
            worker.count_silence()
