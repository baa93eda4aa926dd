"""A worker's process: a fresh Python, told who it is by the first line that it reads."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from twisted.internet.interfaces import IProcessProtocol, IProcessTransport

_CODE = """\
import os, sys
os.environ["LISTEN_PID"] = str(os.getpid())
sys.path[:] = sys.argv[2:]
from popserv.workers.worker import main
main(int(sys.argv[1]))
"""


class Launcher:
    """Knows how this process was started, and starts workers alike.

    To be made before twistd goes to another directory or becomes a daemon.  ``maker`` is the
    name of the module that has ``Options`` and ``makeService``, and ``arguments`` are those of
    ``twistd pop3``.
    """

    def __init__(self, maker: str, arguments: Sequence[str], reactor: Any) -> None:
        self._reactor = reactor
        self._setup = {
            "maker": maker,
            "arguments": list(arguments),
            # Where relative paths in them begin.
            "directory": os.getcwd(),
            "reactor": type(reactor).__module__,
        }
        self._path = [os.path.abspath(each) for each in sys.path]
        self._systemd = _of_systemd()

    def launch(
        self,
        protocol: IProcessProtocol,
        part: Mapping[str, int],
        sockets: Sequence[tuple[int, int | None]],
    ) -> tuple[IProcessTransport, socket.socket, socket.socket]:
        """Start a process that takes this part, and listens on these descriptors.

        Return it, the socket that joins it, and one where its output comes.

        :raises OSError: it cannot be started.
        """
        link, its_link = socket.socketpair()
        output, its_output = socket.socketpair()
        first = 3 + int(self._systemd.get("LISTEN_FDS", 0))
        try:
            with its_link, its_output, open(os.devnull, "r+b") as null:
                # Twisted's endpoint for systemd closes the descriptor that it is given.
                inherited = dict.fromkeys((0, *range(3, first)), null.fileno())
                inherited |= {1: its_output.fileno(), 2: its_output.fileno()}
                inherited[first] = its_link.fileno()
                adopted = []
                for there, (here, backlog) in enumerate(sockets, first + 1):
                    inherited[there] = here
                    adopted.append((there, backlog))
                process: IProcessTransport = self._reactor.spawnProcess(
                    protocol,
                    sys.executable,
                    [sys.executable, *_flags(), "-c", _CODE, str(first), *self._path],
                    env={**os.environ, **self._systemd},
                    childFDs=inherited,
                )
        except BaseException:
            link.close()
            output.close()
            raise
        with suppress(OSError):  # it may be gone already, of which the protocol hears
            setup = {**self._setup, **part, "sockets": adopted}
            link.sendall(json.dumps(setup).encode() + b"\n")
        return process, link, output


def _flags() -> list[str]:
    """Return the options of Python that this process has, such as -W error."""
    # What multiprocessing uses; private, but there since Python 2.
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return flags


def _of_systemd() -> dict[str, str]:
    """Return what systemd said about the sockets that it opened; Twisted forgets it."""
    try:
        with open("/proc/self/environ", "rb") as file:
            lines = os.fsdecode(file.read()).split("\0")
    except OSError:
        return {}
    said = dict(line.partition("=")[::2] for line in lines if line.startswith("LISTEN_"))
    return said if said.get("LISTEN_PID") == str(os.getpid()) else {}
