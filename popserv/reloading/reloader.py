"""SIGHUP: the log file is reopened, and the files that the server uses are read again."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from typing import Any

from twisted.application.service import MultiService
from twisted.logger import ILogObserver, Logger

from popserv.interfaces import IReloadable
from popserv.reloading import signals
from popserv.reloading.log_file import LogFile
from popserv.reloading.service_manager import ServiceManager
from popserv.runtime.permissions import reason_of

_log = Logger()


class Reloader(MultiService):
    """The service of a whole process, which handles SIGHUP and SIGUSR1 in the same way.

    From its start on, neither signal ends the process, even if it was ignored before: service
    managers and logrotate send it on purpose.

    :param reloadables: what is reloaded.
    :param log_file: the log file to reopen, if any.
    :param observer: becomes the log of twistd; None if twistd opens the log.
    :param logs_signals: whether a line is logged for each signal.
    :param manager: is told when the process is ready, reads files again, and stops.
    :param status: describes the process that is ready, in a few words.
    :param time_to_stop: returns the seconds that the process may take to stop.
    """

    def __init__(
        self,
        reloadables: Iterable[IReloadable],
        log_file: LogFile | None = None,
        observer: ILogObserver | None = None,
        *,
        logs_signals: bool = True,
        manager: ServiceManager | None = None,
        status: str = "serving",
        time_to_stop: Callable[[], float] = lambda: 0.0,
        reactor: Any = None,
    ) -> None:
        super().__init__()
        self._reloadables = tuple(reloadables)
        self._log_file = log_file
        self._observer = observer
        self._logs_signals = logs_signals
        self._manager = manager
        self._status = status
        self._time_to_stop = time_to_stop
        self._reactor = reactor
        self._pending: set[str] = set()

    def setServiceParent(self, parent: Any) -> None:
        """Join the application of twistd, and set its log."""
        if self._observer is not None:
            parent.setComponent(ILogObserver, self._observer)
        super().setServiceParent(parent)

    def startService(self) -> None:
        """Handle the signals, also those that came while they were blocked."""
        if self._reactor is None:
            from twisted.internet import reactor

            self._reactor = reactor
        for number in signals.RELOAD_SIGNALS:
            signal.signal(number, self._signal_received)
        self._reactor.callWhenRunning(signals.allow_full_pipe)
        signals.unblock()
        super().startService()
        # The last: twistd has given up its privileges, and everything has started.
        self._reactor.callWhenRunning(self._tell_ready)

    def stopService(self) -> Any:
        """Hold the signals back from now on, so that they cannot end the process in disorder."""
        # SIG_IGN instead would make Python report a signal that has not been handled yet.
        signals.block()
        if self._manager is not None:
            self._manager.stopping(self._time_to_stop())
            self._manager = None  # A signal may still be handled.
        return super().stopService()

    def _tell_ready(self) -> None:
        if self._manager is not None:
            self._manager.ready(self._reactor, self._status)

    def _signal_received(self, number: int, frame: object) -> None:
        name = signal.Signals(number).name
        if name not in self._pending:
            self._pending.add(name)
            self._reactor.callFromThread(self._handle, name)

    def _handle(self, name: str) -> None:
        self._pending.discard(name)
        self.reload(name)

    def reload(self, name: str) -> None:
        """Reopen the log file and reload everything; ``name`` is that of what has asked for it."""
        if self._manager is not None:
            self._manager.reloading()
        if self._logs_signals:
            self._reopen_log_file(name)
        for reloadable in self._reloadables:
            try:
                reloadable.reload()
            except Exception:
                _log.failure("unexpected error while files were read again")
        self._tell_ready()

    def _reopen_log_file(self, name: str) -> None:
        if self._log_file is None:
            _log.info("{signal}: files that have changed are read again", signal=name)
            return
        try:
            self._log_file.reopen()
        except OSError as error:
            _log.error(
                "{signal}: files that have changed are read again, but the log file {path} cannot "
                "be reopened: {reason}; the server continues in the previous one",
                signal=name,
                path=self._log_file.path,
                reason=reason_of(error),
            )
        else:
            _log.info(
                "{signal}: log file {path} reopened, files that have changed are read again",
                signal=name,
                path=self._log_file.path,
            )
