"""The process of the servers, as the program of the tests uses it."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
from multiprocessing import Pipe
from pathlib import Path
from tempfile import TemporaryFile
from threading import Lock
from typing import Any

_PROGRAM = "import sys; from popserv.testing.host import main; main(int(sys.argv[1]))"


class ServerError(Exception):
    """The server could not be started, or has failed; the text is that of its own error."""


class HostProcess:
    """The process of :mod:`popserv.testing.host`, which runs all servers of this process."""

    def __init__(self) -> None:
        # A process that has forked must not share the connection.
        self._owner = os.getpid()
        self._lock = Lock()
        self._connection, other = Pipe()
        self._output = TemporaryFile()  # noqa: SIM115
        root = str(Path(__file__).parents[2])
        path = [root, *(os.path.abspath(each) for each in sys.path)]
        with other:
            self._process = subprocess.Popen(  # noqa: S603 - a fixed program
                [sys.executable, "-c", _PROGRAM, str(other.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                cwd="/",
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
                pass_fds=[other.fileno()],
                # An interrupt from the keyboard is for the tests.
                start_new_session=True,
            )

    @property
    def is_usable(self) -> bool:
        """Whether this process can send requests to it."""
        return (
            self._owner == os.getpid()
            and not self._connection.closed
            and self._process.poll() is None
        )

    def request(self, *request: object) -> Any:
        """Send a request, and return its result.

        :raises ServerError: the request has failed, or the process has ended.
        """
        with self._lock:
            try:
                self._connection.send(request)
                succeeded, result = self._connection.recv()
            except (EOFError, OSError) as lost:
                self._process.wait()
                self._output.seek(0)
                output = self._output.read().decode("utf-8", "replace")
                raise ServerError(
                    f"the process of the server has ended, {self._process.returncode}:\n{output}"
                ) from lost
            except BaseException:
                # An interrupt: the answer would be taken for that to the next request.
                self._connection.close()
                raise
        if not succeeded:
            raise ServerError(result)
        return result

    def close(self) -> None:
        """End the process, unless it belongs to another one, which has forked this one."""
        self._connection.close()
        if self._owner == os.getpid():
            # A process that this one has forked may keep the connection open.
            self._process.terminate()
            self._process.wait()
        else:
            self._process.poll()
        self._output.close()


_host_process: HostProcess | None = None
_host_process_lock = Lock()


def get_process() -> HostProcess:
    """Return the process of the servers, started if necessary."""
    global _host_process
    with _host_process_lock:
        found = _host_process
        if found is None or not found.is_usable:
            _close_process()
            _host_process = found = HostProcess()
            atexit.register(_close_process)
        return found


def _close_process() -> None:
    global _host_process
    found, _host_process = _host_process, None
    if found is not None:
        found.close()
