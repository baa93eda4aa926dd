"""Starts the process of a worker: a new Python, which reads its setup from the link."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import count
from typing import Any

from twisted.internet.interfaces import IProcessProtocol, IProcessTransport

from popserv.listening.systemd import systemd_variables
from popserv.reloading import signals

_WORKER_CODE = """\
import os, sys
os.environ["LISTEN_PID"] = str(os.getpid())
sys.path[:] = sys.argv[2:]
from popserv.workers.worker import main
main(int(sys.argv[1]))
"""


class Launcher:
    """Starts worker processes with the same Python, Python options and search path as this one.

    Create it before twistd changes its directory or becomes a daemon.

    :param service_module: the name of the module that contains ``Options`` and
        ``makeService``.
    :param arguments: the command line of ``twistd pop3``.
    """

    def __init__(self, service_module: str, arguments: Sequence[str], reactor: Any) -> None:
        self._reactor = reactor
        self._setup = {
            "service_module": service_module,
            "arguments": list(arguments),
            # Relative paths in the arguments are relative to this directory.
            "directory": os.getcwd(),
            "reactor": type(reactor).__module__,
        }
        self._command = [sys.executable, *_python_options(), "-c", _WORKER_CODE]
        self._path = [os.path.abspath(each) for each in sys.path]
        self._systemd = systemd_variables()

    def launch(
        self,
        protocol: IProcessProtocol,
        role: Mapping[str, int],
        sockets: Sequence[Sequence[int]],
    ) -> tuple[IProcessTransport, socket.socket, socket.socket]:
        """Start a process.

        :param role: the ``number`` of the worker and the ``count`` of workers.
        :param sockets: the descriptors of each endpoint; see
            :meth:`popserv.workers.sockets.SocketOpener.descriptors`.
        :returns: the process, the socket of the link, and the socket from which the standard
            output and error of the process can be read.
        :raises OSError: the process cannot be started.
        """
        link, worker_link = socket.socketpair()
        output, worker_output = socket.socketpair()
        first = 3 + int(self._systemd.get("LISTEN_FDS", 0))
        try:
            # The worker must not be ended by a signal before it can handle it.
            with worker_link, worker_output, open(os.devnull, "r+b") as null, signals.blocked():
                # Twisted's endpoint systemd: closes the descriptors that systemd has passed, so
                # they must be open.
                inherited = dict.fromkeys((0, *range(3, first)), null.fileno())
                inherited |= {1: worker_output.fileno(), 2: worker_output.fileno()}
                inherited[first] = worker_link.fileno()
                numbers = count(first + 1)
                adopted = [[(next(numbers), fd) for fd in each] for each in sockets]
                inherited.update(pair for each in adopted for pair in each)
                process: IProcessTransport = self._reactor.spawnProcess(
                    protocol,
                    sys.executable,
                    [*self._command, str(first), *self._path],
                    env={**os.environ, **self._systemd},
                    childFDs=inherited,
                )
        except BaseException:
            link.close()
            output.close()
            raise
        with suppress(OSError):  # the process has ended already; its protocol is notified
            worker_fds = [[number for number, _ in each] for each in adopted]
            setup = {**self._setup, **role, "sockets": worker_fds}
            link.sendall(json.dumps(setup).encode() + b"\n")
        return process, link, output


def _python_options() -> list[str]:
    """Return the options of Python that this process has, such as -W error."""
    # The function that multiprocessing uses: private, but present since Python 2.
    options: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return options
