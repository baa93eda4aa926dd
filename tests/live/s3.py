"""Servers of S3 for tests, each with a bucket ``mail``."""

import atexit
import os
import re
import subprocess
import sys
from functools import cache
from urllib.request import Request, urlopen

from tests.live.harness import BIN, TIMEOUT, temporary_directory, until

KEY_ID, SECRET = "popserv-key", "popserv-secret"


class S3Server:
    """A program that serves S3 on a free port of this machine; ``command`` are its words.

    It writes to its log where it listens, and is stopped at exit.
    """

    def __init__(self, *command):
        directory = temporary_directory()
        path = directory / "log"
        with path.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "HOME": str(directory)},
            )
        atexit.register(self._stop)
        url = until(lambda: re.search(r"http://127\.0\.0\.1:\d+", path.read_text()), "the server")
        self.options = {
            "access_key_id": KEY_ID,
            "secret_access_key": SECRET,
            "endpoint": url[0],
            "region": "us-east-1",
            "allow_http": "true",
        }

    def _stop(self):
        self._process.terminate()
        self._process.wait(TIMEOUT)


@cache
def rclone():
    """Return a server that is rclone, over a directory; it is started once."""
    directory = temporary_directory()
    (directory / "mail").mkdir()
    return S3Server(
        *(str(BIN / "rclone"), "serve", "s3", "--addr", "127.0.0.1:0"),
        *("--auth-key", f"{KEY_ID},{SECRET}", str(directory)),
    )


@cache
def moto():
    """Return a server that is moto, which keeps objects in memory; it is started once."""
    server = S3Server(sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0")
    with urlopen(Request(f"{server.options['endpoint']}/mail", method="PUT"), timeout=TIMEOUT):
        pass
    return server
