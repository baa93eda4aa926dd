"""The processes of a cluster: how they are started, and how they end."""

import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

HOST = "127.0.0.1"

PROGRAMS = Path(sys.executable).parent
"""The directory of the programs of this Python environment."""

TIMEOUT = 60
"""Seconds in which a process must start or end."""


class ClusterError(Exception):
    """A part of the cluster cannot be started; the text has the remedy."""


def free_port():
    """Return the number of a TCP port that nobody uses.

    It is reserved until this process ends: only a server that names it gets it, again and again,
    as servers listen with SO_REUSEADDR.
    """
    reserving = socket.socket()
    reserving.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserving.bind((HOST, 0))
    port = reserving.getsockname()[1]
    # Its descriptor stays open.
    reserving.detach()
    return port


def accepts(port):
    """Return whether a TCP port of this machine accepts connections."""
    with suppress(OSError), socket.create_connection((HOST, port), 1):
        return True
    return False


def run(command, text="", **options):
    """Run a program to its end with a text as its input, and return its output.

    :raises ClusterError: it cannot be run, or has failed.
    """
    command = list(map(str, command))
    try:
        done = subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT,
            **options,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClusterError(f"{command[0]} cannot be run: {error}") from None
    if done.returncode:
        raise ClusterError(f"{command[0]}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


class Process:
    """A process that listens on a port; its output is in ``DIRECTORY/NAME.log``."""

    def __init__(self, directory, name, port=None):
        self.directory, self.name = directory, name
        self.port = port or free_port()
        # The arguments of Popen for another account to run as.
        self.account = {}
        self._process = None

    @property
    def pid(self):
        """The process ID."""
        return self._process.pid

    @property
    def ended(self):
        """Whether the process has ended, or was not started."""
        return self._process is None or self._process.poll() is not None

    @property
    def log(self):
        """The path of the log."""
        return self.directory / f"{self.name}.log"

    def command(self):
        """Return the command that starts it, as a list."""
        raise NotImplementedError

    def launch(self):
        """Start the process.

        :raises ClusterError: it cannot be started.
        """
        command = list(map(str, self.command()))
        try:
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.directory,
                    # Ctrl-C is for this process alone, which stops the others in order.
                    start_new_session=True,
                    **self.account,
                )
        except OSError as error:
            raise ClusterError(f"{self.name} cannot be started: {error}") from None

    def wait(self):
        """Wait until the process accepts connections.

        :raises ClusterError: it has ended, or does not do so in time.
        """
        deadline = time.monotonic() + TIMEOUT
        while not self.is_ready():
            if self.ended:
                raise ClusterError(f"{self.name} has ended; its log:\n{self._last_lines()}")
            if time.monotonic() > deadline:
                raise ClusterError(f"{self.name} does not answer; its log:\n{self._last_lines()}")
            time.sleep(0.05)

    def start(self):
        """Start the process, and wait until it accepts connections."""
        self.launch()
        self.wait()

    def is_ready(self):
        """Return whether the process accepts connections."""
        return accepts(self.port)

    def send_signal(self, number):
        """Send the process a signal."""
        self._process.send_signal(number)

    def stop(self, number=signal.SIGTERM):
        """Stop the process, unless it has ended, and wait for its end."""
        if not self.ended:
            self.send_signal(number)
            # One that was suspended gets the other signal only now.
            self.send_signal(signal.SIGCONT)
            try:
                self._process.wait(TIMEOUT)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self):
        """Kill the process, and wait for its end."""
        self._process.kill()
        self._process.wait()

    def _last_lines(self):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-10:])
