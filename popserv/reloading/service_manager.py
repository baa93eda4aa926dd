"""Tells systemd the state of this process, as sd_notify(3) of systemd does."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any

from twisted.internet.task import LoopingCall
from twisted.logger import Logger

_log = Logger()

_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class ServiceManager:
    """The program that has started this process, if it wants to be notified.

    Create it before the process changes its root directory or its user.

    :param environ: the variables of this process; those of the service manager are removed, so
        that no other process that this one starts speaks for it.
    """

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        address, interval, pid = (environ.pop(name, "") for name in _VARIABLES)
        self._socket = _connected(address) if address else None
        # twistd may become a daemon, with another process ID.
        self._watchdog_pid = pid
        self._watchdog_interval = int(interval) / 2e6 if interval.isdecimal() else 0.0
        self._watchdog = LoopingCall(self._notify, "WATCHDOG=1")

    def ready(self, reactor: Any, status: str) -> None:
        """Tell that the ports are open, or that files have been read again.

        The reactor then has to show that it runs, if the service manager wants that.
        """
        self._notify("READY=1", f"STATUS={status}")
        is_wanted = self._watchdog_pid in ("", str(os.getpid())) and self._watchdog_interval
        if self._socket is not None and is_wanted and not self._watchdog.running:
            self._watchdog.clock = reactor
            self._watchdog.start(self._watchdog_interval)

    def reloading(self) -> None:
        """Tell that files are read again; :meth:`ready` must follow."""
        self._notify(
            "RELOADING=1",
            f"MONOTONIC_USEC={time.monotonic_ns() // 1000}",
            "STATUS=reading files again",
        )

    def stopping(self, seconds: float) -> None:
        """Tell that this process is about to end.

        For these seconds from now, the service manager must not kill it; with 0 it decides.
        """
        if self._watchdog.running:
            self._watchdog.stop()
        extension = [f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}"] if seconds else []
        self._notify("STOPPING=1", "STATUS=ending sessions", *extension)

    def _notify(self, *lines: str) -> None:
        if self._socket is not None:
            # Nothing can be done about a service manager that does not read or has ended.
            with suppress(OSError):
                self._socket.send("\n".join(lines).encode())


def _connected(address: str) -> socket.socket | None:
    """Return a socket that is connected to the address, or None, with a log line that says why."""
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    opened.setblocking(False)
    try:
        if address[0] not in "/@":
            raise OSError(0, "it is neither a path nor an abstract socket")
        opened.connect(f"\0{address[1:]}" if address[0] == "@" else address)
    except OSError as error:
        opened.close()
        _log.warn(
            "systemd is not notified: NOTIFY_SOCKET={address}: {problem}",
            address=address,
            problem=error.strerror or error,
        )
        return None
    return opened
