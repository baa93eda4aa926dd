"""The service of ``twistd pop3 --workers``: opens the sockets, runs workers, relays updates.

:mod:`popserv.workers.link` describes the messages between the supervisor and its workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import LoopingCall
from zope.interface import implementer

from popserv.interfaces import IReloadable
from popserv.listening.listeners import CannotStart, Listeners
from popserv.listening.reactor import AddressFamilyReactor
from popserv.workers.launcher import Launcher
from popserv.workers.link import HEARTBEAT_INTERVAL
from popserv.workers.sockets import SocketOpener
from popserv.workers.worker_process import WorkerProcess


@implementer(IReloadable)
class Supervisor(Listeners):
    """A service that runs worker processes, which accept connections on its sockets.

    Its child services must use :attr:`opener` as their reactor.

    :param count: the number of workers.
    :param service_module: the name of the module whose ``Options`` and ``makeService`` make
        the service of each worker.
    :param arguments: the command line of ``twistd pop3``.
    """

    def __init__(
        self, count: int, service_module: str, arguments: Sequence[str], reactor: Any = None
    ) -> None:
        super().__init__()
        if reactor is None:
            from twisted.internet import reactor
        self.opener = SocketOpener(AddressFamilyReactor(reactor), count)
        launcher = Launcher(service_module, arguments, reactor)
        self.workers = [
            WorkerProcess(
                number,
                count,
                launcher=launcher,
                opener=self.opener,
                reactor=reactor,
                on_publish=self.relay,
                on_ready=self.request_replay,
            )
            for number in range(1, count + 1)
        ]
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
        self._heartbeat_check.start(HEARTBEAT_INTERVAL, now=False)

    def stopService(self) -> Deferred[Any]:
        """Stop the workers, and close the sockets when all workers have exited."""
        if self._heartbeat_check.running:
            self._heartbeat_check.stop()
        stopped: Deferred[Any] = DeferredList([worker.stop() for worker in self.workers])

        def close(_: object) -> Deferred[Any]:
            self.opener.close()
            closed: Deferred[Any] = super(Supervisor, self).stopService()
            return closed

        return stopped.addCallback(close)

    def reload(self) -> None:
        """Pass SIGHUP on to the workers; see :class:`popserv.interfaces.IReloadable`."""
        for worker in self.workers:
            worker.reload()

    def relay(self, line: bytes, sender: WorkerProcess) -> None:
        """Send the line of an update to all workers but its sender."""
        for worker in self.workers:
            if worker is not sender:
                worker.send(line)

    def request_replay(self, newcomer: WorkerProcess) -> None:
        """Ask one worker to publish everything again, for a worker that has just started."""
        for worker in self.workers:
            if worker.is_ready and worker is not newcomer:
                worker.send(b"replay")
                break

    def _check_heartbeats(self) -> None:
        for worker in self.workers:
            worker.check_heartbeat()
