"""popserv as its users run it: a ``twistd pop3`` of its own for each class of tests.

A server listens on a free port of this machine, below a root that goes with it, and is
ended by its own pid.  It runs in the environment of the interpreter that runs the tests.
"""

import atexit
import os
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from itertools import count
from pathlib import Path

from twisted.trial.unittest import TestCase

from popserv.auth.passwords.schemes import join_field
from popserv.auth.passwords.users_file import default_path
from popserv.auth.passwords.users_file_editing import set_secret
from popserv.messages.downgrade import Downgrader

CHECKOUT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
LOOPBACK = "tcp:0:interface=127.0.0.1"
PATIENCE = 60
"""Seconds after which a test that waits fails, rather than to wait for ever."""

SAMPLE = CHECKOUT / "examples" / "sample_maildrop.py"
SAMPLES = runpy.run_path(str(SAMPLE))["messages"]()
"""Messages as they come from mail programs."""


def lines_of(message):
    """Part a stored message into its lines in the plainest way, to check clients against."""
    lines = message.replace(b"\r\n", b"\n").split(b"\n")
    return lines[:-1] if lines[-1] == b"" else lines


def wire_form(message, end=b"\r\n"):
    """Return a stored message with all its lines ended alike."""
    return b"".join(line + end for line in lines_of(message))


def shown(message):
    """Return a stored message as a client sees it that did not say UTF8."""
    downgrader = Downgrader()
    return downgrader.feed(message) + downgrader.finish()


def deliver(maildir, messages):
    """Put messages into a Maildir, in this order and behind what is there; make it if need be."""
    for folder in ("tmp", "new", "cur"):
        Path(maildir, folder).mkdir(parents=True, exist_ok=True)
    new = Path(maildir, "new")
    first = 1_700_000_000 + len(os.listdir(new))
    for seconds, message in enumerate(messages, first):
        (new / f"{seconds}.M1P1.host").write_bytes(message)


def stored(maildir):
    """Return the messages of a Maildir, in the order of delivery."""
    files = [file for name in ("new", "cur") for file in Path(maildir, name).glob("*")]
    return [file.read_bytes() for file in sorted(files, key=lambda file: file.name)]


def run(program, *arguments, **options):
    """Run a program of the environment, or of the system, to its end; keep what it printed."""
    inside = BIN / program
    command = [str(inside if inside.exists() else program), *map(str, arguments)]
    options = {"stdin": None if "input" in options else subprocess.DEVNULL, **options}
    return subprocess.run(
        command, capture_output=True, timeout=4 * PATIENCE, check=False, **options
    )


def need(test, *programs):
    """Skip a test one of whose programs is not installed; in CI, where all are, fail it."""
    for name in programs:
        if not ((BIN / name).exists() or shutil.which(name)):
            (test.fail if "CI" in os.environ else test.skipTest)(f"{name} is not installed")


class Fetchmail:
    """A fetchmail of one test, which is skipped where there is none; ``poll`` is its line."""

    def __init__(self, test, poll):
        need(test, "fetchmail", *(["socat"] if "socat" in poll else []))
        self._test = test
        self.home = temporary_directory(test)
        (self.home / "got").mkdir()
        agent = self.home / "agent"
        agent.write_text(f"#!/bin/sh\ncd {self.home}/got && exec cat > $(ls | wc -l)\n")
        agent.chmod(0o700)
        rc = self.home / "rc"
        rc.write_text(
            f"set invisible\nset idfile {self.home}/ids\npoll 127.0.0.1 {poll} "
            f"is root here no rewrite mda {agent}\n"
        )
        rc.chmod(0o600)

    def got(self):
        """Return all messages that it has fetched, in order."""
        files = sorted((self.home / "got").iterdir(), key=lambda file: int(file.name))
        return [file.read_bytes() for file in files]

    def fetch(self, *options, nothing_new=False):
        """Run it; return what it has printed."""
        done = run(
            *("fetchmail", "--fetchmailrc", self.home / "rc", "--nodetach", *options),
            env={**os.environ, "HOME": str(self.home)},
        )
        self._test.assertEqual(done.returncode, int(nothing_new), repr(done))
        return done.stdout


def until(condition, what):
    """Wait until a condition holds; return what made it true."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain for {what}")
        time.sleep(0.02)
    return found


def temporary_directory(test=None):
    """Return a new directory that other users can enter; it goes with the test, or at exit."""
    path = Path(tempfile.mkdtemp(prefix="popserv-"))
    path.chmod(0o755)
    (test.addCleanup if test else atexit.register)(shutil.rmtree, path, ignore_errors=True)
    return path


class Server:
    """A twistd with popserv; ``ports`` and ``log`` say where it listens and what it says."""

    def __init__(self, *options, root=None, tac=None, twistd=()):
        self.root = root or temporary_directory()
        self._log = temporary_directory() / "log"
        self._names = count(1)
        plugin = ["pop3", "--maildir", self.root, *options]
        if "--listen" not in options:
            plugin += ["--listen", LOOPBACK]
        what = ["--python", tac] if tac else plugin
        command = [BIN / "twistd", "--nodaemon", "--pidfile=", *twistd, *what]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                list(map(str, command)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._log.parent,
            )
        atexit.register(self.stop)
        until(lambda: self.ports or self.process.poll() is not None, "a port")
        if self.process.poll() is not None:
            raise AssertionError(f"twistd ended at once:\n{self.log}")
        self.connect().close()

    @property
    def log(self):
        """All that the server has printed."""
        return self._log.read_text(errors="backslashreplace")

    @property
    def ports(self):
        """The TCP ports it listens on, in order."""
        return [int(port) for port in re.findall(r"starting on (\d+)\n", self.log)]

    @property
    def port(self):
        """The first of them."""
        return self.ports[0]

    @property
    def memory(self):
        """The octets of memory that the server has now (VmRSS)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) << 10

    def connect(self, **options):
        """Return a new connection, its greeting read."""
        return Connection(("127.0.0.1", self.port), **options)

    def login(self, name, password="secret", **options):
        """Return a new connection, logged in."""
        connection = self.connect(**options)
        connection.ask(b"USER " + name.encode())
        reply = connection.ask(b"PASS " + password.encode())
        if not reply.startswith(b"+OK"):
            raise AssertionError(f"no login: {reply!r}")
        return connection

    def add_user(self, messages=(), *, apop=False, password="secret", link=None):
        """Add a user who has these messages, or the Maildir that a link leads to.

        Return the name and the Maildir.
        """
        name = f"user{next(self._names)}"
        field = join_field(b"APOP" if apop else b"PLAIN", password.encode())
        set_secret(default_path(str(self.root)), name.encode(), field, new=True)
        maildir = self.root / name
        if link:
            maildir.symlink_to(link)
        deliver(maildir, messages)
        return name, maildir

    def stop(self, number=signal.SIGTERM):
        """End the server, and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(PATIENCE)


class Connection:
    """A client's end of a connection, spoken by hand."""

    def __init__(self, address, *, wrap=None, receive_buffer=None):
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.socket = socket.socket(family)
        self.socket.settimeout(PATIENCE)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect(address)
        if wrap:
            self.socket = wrap(self.socket)
        self.file = self.socket.makefile("rb")
        self.greeting = self.line()

    def line(self):
        """Return the next line without its end; nothing if the server has closed."""
        return self.file.readline().removesuffix(b"\r\n")

    def ask(self, command):
        """Send a command; return its status line."""
        self.socket.sendall(command + b"\r\n")
        return self.line()

    def lines(self):
        """Return the rest of a multi-line response, dots unstuffed."""
        lines = []
        while (line := self.file.readline()) != b".\r\n":
            if not line:
                raise AssertionError(f"closed in mid-response, after {len(lines)} lines")
            lines.append(line.removesuffix(b"\r\n").removeprefix(b"."))
        return lines

    def rest(self):
        """Return all that comes until the server closes."""
        try:
            return self.file.read()
        except ConnectionResetError:
            return b""

    def abandon(self):
        """Go away without a word, as a client that is killed."""
        self.socket.close()
        self.file.close()

    def close(self):
        """QUIT, and wait until the server has closed; return what it said."""
        reply = self.ask(b"QUIT")
        self.rest()
        self.abandon()
        return reply


class ServerTestCase(TestCase):
    """Tests that share one server, which is started for the first of them."""

    options = ()
    """What is given to ``twistd pop3`` beside a root and a port."""

    _running = (None, None)

    @property
    def server(self):
        """The server of this class; that of the class before is stopped."""
        owner, server = ServerTestCase._running
        if owner is not type(self) or server.process.poll() is not None:
            if server is not None:
                server.stop()
            server = self.new_server()
            ServerTestCase._running = type(self), server
        return server

    def new_server(self):
        """Start a server for this class."""
        return Server(*self.options)

    def login(self, messages=(), **options):
        """Return a connection of a new user who has these messages, and the Maildir."""
        name, maildir = self.server.add_user(messages)
        connection = self.server.login(name, **options)
        self.addCleanup(connection.abandon)
        return connection, maildir
