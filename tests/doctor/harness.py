"""Helpers for tests of checks: what they find, and a user without privileges."""

import os
import shutil
import socket
import tempfile
import threading
from contextlib import nullcontext, suppress
from pathlib import Path
from pwd import getpwnam

from popserv.core.findings import Finding
from popserv.doctor.serving_user import ServingUser, acting_as
from popserv.doctor.targets import Target, trusting_context


def open_directory(test):
    """Create a directory that every user can enter; it is removed after the test."""
    path = Path(tempfile.mkdtemp(prefix="popserv-"))
    path.chmod(0o755)
    test.addCleanup(shutil.rmtree, path, ignore_errors=True)
    return path


def unprivileged():
    """Return a context manager in which the process is not root."""
    if os.geteuid() != 0:
        return nullcontext()
    nobody = getpwnam("nobody")
    return acting_as(ServingUser(nobody.pw_uid, nobody.pw_gid))


def codes(findings):
    """Return the codes of findings in order, each after the first letter of its severity."""
    found = list(findings)
    for finding in found:
        assert isinstance(finding, Finding), finding
        # Each is one line with a place, a problem and a remedy.
        assert all(text.isprintable() and text for text in finding[1:]), finding
    return [f"{finding.severity.value[0]} {finding.code}" for finding in found]


class ScriptedServer:
    """A server in a thread that sends what a test says, whatever is asked.

    ``serve`` is called with each connection.
    """

    def __init__(self, test, serve):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = self._listener.getsockname()[:2]
        self._serve = serve
        self._connections = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        test.addCleanup(self._stop)

    def _run(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            with suppress(OSError), connection:
                self._serve(connection)

    def _stop(self):
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()


def target_of(address, **options):
    """Return a target for an address of this machine."""
    return Target(tuple(address), "server", "localhost", trusting_context(), **options)
