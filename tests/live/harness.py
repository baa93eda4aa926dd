"""Run popserv as users run it: a separate ``twistd pop3`` for each class of tests.

A server has its own mail directory, listens on a free port of this machine, and is stopped
by its process ID.  It uses the Python environment that runs the tests.
"""

import atexit
import contextlib
import os
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from itertools import count
from pathlib import Path

from twisted.trial.unittest import TestCase

from popserv.auth.passwords.schemes import join_field
from popserv.auth.passwords.users_file import MAX_AGE, default_path
from popserv.auth.passwords.users_file_editing import set_secret
from popserv.messages.downgrade.downgrader import Downgrader

CHECKOUT = Path(__file__).resolve().parents[2]
AUDIT = Path(__file__).parent / "audit"
BIN = Path(sys.executable).parent
LOOPBACK = "tcp:0:interface=127.0.0.1"
TIMEOUT = 60
"""Seconds after which a waiting test fails."""

SAMPLE = CHECKOUT / "examples" / "sample_maildrop.py"
SAMPLES = runpy.run_path(str(SAMPLE))["messages"]()
"""Messages as mail programs send them."""


def split_lines(message):
    """Split a stored message into lines in the simplest way, as a reference for clients."""
    lines = message.replace(b"\r\n", b"\n").split(b"\n")
    return lines[:-1] if lines[-1] == b"" else lines


def wire_form(message, end=b"\r\n"):
    """Return a stored message with the same ending for all lines."""
    return b"".join(line + end for line in split_lines(message))


def downgraded(message):
    """Return the form of a stored message for a client that has not given UTF8."""
    downgrader = Downgrader()
    return downgrader.feed(message) + downgrader.finish()


def deliver(maildir, messages):
    """Deliver messages into a Maildir in this order; create the Maildir if necessary."""
    for folder in ("tmp", "new", "cur"):
        Path(maildir, folder).mkdir(parents=True, exist_ok=True)
    new = Path(maildir, "new")
    first = 1_700_000_000 + len(os.listdir(new))
    for seconds, message in enumerate(messages, first):
        (new / f"{seconds}.M1P1.host").write_bytes(message)


def read_maildir(maildir):
    """Return the messages in a Maildir, in the order of delivery."""
    files = [file for name in ("new", "cur") for file in Path(maildir, name).glob("*")]
    messages = []
    for file in sorted(files, key=lambda file: file.name):
        # The server may be removing it.
        with contextlib.suppress(FileNotFoundError):
            messages.append(file.read_bytes())
    return messages


def run(program, *arguments, **options):
    """Run a program of the Python environment or of the system; return the completed process."""
    installed = BIN / program
    command = [str(installed if installed.exists() else program), *map(str, arguments)]
    options = {"stdin": None if "input" in options else subprocess.DEVNULL, **options}
    return subprocess.run(command, capture_output=True, timeout=4 * TIMEOUT, check=False, **options)


def require_programs(test, *programs):
    """Skip a test if one of these programs is not installed; in CI, fail it."""
    for name in programs:
        if not ((BIN / name).exists() or shutil.which(name)):
            (test.fail if "CI" in os.environ else test.skipTest)(f"{name} is not installed")


class Fetchmail:
    """A fetchmail with its own configuration; ``poll`` is the text of its poll statement.

    The test is skipped if fetchmail is not installed.
    """

    def __init__(self, test, poll):
        require_programs(test, "fetchmail", *(["socat"] if "socat" in poll else []))
        self._test = test
        self.home = temporary_directory(test)
        (self.home / "messages").mkdir()
        agent = self.home / "agent"
        agent.write_text(f"#!/bin/sh\ncd {self.home}/messages && exec cat > $(ls | wc -l)\n")
        agent.chmod(0o700)
        rc = self.home / "rc"
        # Those of root have one file for their process ID, which allows one at a time.
        rc.write_text(
            f"set invisible\nset pidfile {self.home}/pid\nset idfile {self.home}/ids\n"
            f"poll 127.0.0.1 {poll} is root here no rewrite mda {agent}\n"
        )
        rc.chmod(0o600)

    def messages(self):
        """Return all messages that it has fetched, in order."""
        files = sorted((self.home / "messages").iterdir(), key=lambda file: int(file.name))
        return [file.read_bytes() for file in files]

    def fetch(self, *options, nothing_new=False):
        """Run fetchmail; return its output."""
        done = run(
            *("fetchmail", "--fetchmailrc", self.home / "rc", "--nodetach", *options),
            env={**os.environ, "HOME": str(self.home)},
        )
        self._test.assertEqual(done.returncode, int(nothing_new), repr(done))
        return done.stdout


def until(condition, what, timeout=TIMEOUT):
    """Wait until a condition returns a true value; return that value.

    :raises AssertionError: it did not within ``timeout`` seconds; the message names ``what``.
    """
    deadline = time.monotonic() + timeout
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"timed out waiting for {what}")
        time.sleep(0.02)
    return result


def accepts(address):
    """Return whether a server accepts connections; a UNIX socket exists a moment earlier."""
    with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as probe:
        return probe.connect_ex(address) == 0


def temporary_directory(test=None):
    """Create a directory that other users can enter; it is removed after the test or at exit."""
    path = Path(tempfile.mkdtemp(prefix="popserv-"))
    path.chmod(0o755)
    (test.addCleanup if test else atexit.register)(shutil.rmtree, path, ignore_errors=True)
    return path


class Server:
    """A twistd process that runs popserv.

    ``store`` replaces the option that names the store, and ``prefix`` is a command that starts
    twistd.

    :ivar port: the first of its TCP ports.
    """

    def __init__(
        self, *options, root=None, store=(), tac=None, twistd=(), environment=None, prefix=()
    ):
        self.root = root or temporary_directory()
        self._log = temporary_directory() / "log"
        self._names = count(1)
        plugin = ["pop3", *(store or ("--maildir", self.root)), *options]
        # What a proxy sends first, if the first port is one for proxies.
        self.header = b""
        if "--listen" not in options:
            plugin += ["--listen", LOOPBACK]
        elif options[options.index("--listen") + 1].startswith("haproxy:"):
            self.header = b"PROXY UNKNOWN\r\n"
        application = ["--python", tac] if tac else plugin
        self._loads = self._log.with_name("loads")
        command = [*prefix, BIN / "twistd", "--nodaemon", "--pidfile=", *twistd, *application]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                list(map(str, command)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._log.parent,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join([str(AUDIT), str(CHECKOUT)]),
                    "POPSERV_TEST_LOADS": str(self._loads),
                    # At SIGABRT it prints the stacks of its threads.
                    "PYTHONFAULTHANDLER": "1",
                    **(environment or {}),
                },
            )
        atexit.register(self.stop)
        until(lambda: self.ports or self.process.poll() is not None, "a port")
        if self.process.poll() is not None:
            raise AssertionError(f"twistd did not start:\n{self.log}")
        # Whoever measures connections must not search the log for it each time.
        self.port = self.ports[0]
        self.connect().close()

    @property
    def log(self):
        """The output of the server."""
        return self._log.read_text(errors="backslashreplace")

    @property
    def loads(self):
        """What the server has imported, loaded or looked up since it opened its ports."""
        return self._loads.read_text() if self._loads.exists() else ""

    @property
    def ports(self):
        """The TCP ports on which the server listens, in order."""
        return [int(port) for port in re.findall(r"starting on (\d+)\n", self.log)]

    @property
    def memory(self):
        """The server's resident memory in octets (VmRSS)."""
        return self._status("VmRSS")

    @property
    def peak(self):
        """The most resident memory since :meth:`reset_peak`, in octets (VmHWM)."""
        return self._status("VmHWM")

    def reset_peak(self):
        """Let the peak begin with the memory that is resident now; return that."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
        return self.memory

    def _status(self, name):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{name}:\s+(\d+) kB", status)[1]) << 10

    def connect(self, **options):
        """Return a new connection after its greeting."""
        return Connection(("127.0.0.1", self.port), **{"header": self.header, **options})

    def login(self, name, password="secret", **options):
        """Return a new connection that is logged in."""
        connection = self.connect(**options)
        connection.ask(b"USER " + name.encode())
        reply = connection.ask(b"PASS " + password.encode())
        if not reply.startswith(b"+OK"):
            raise AssertionError(f"login failed: {reply!r}")
        return connection

    def add_user(self, messages=(), *, apop=False, password="secret", link=None):
        """Add a user with these messages, or with a link to a Maildir.

        Return the name and the Maildir.
        """
        name = f"user{next(self._names)}"
        field = join_field(b"APOP" if apop else b"PLAIN", password.encode())
        set_secret(default_path(str(self.root)), name.encode(), field, new=True)
        maildir = self.root / name
        if link:
            maildir.symlink_to(link)
        deliver(maildir, messages)
        # What the greeting and CAPA offer follows the users file after that time.
        time.sleep(MAX_AGE)
        return name, maildir

    def stop(self, number=signal.SIGTERM):
        """Stop the server; return its exit code.

        :raises AssertionError: it does not stop; the message ends with the stacks of its threads.
        """
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)
            self.process.wait(TIMEOUT)
            raise AssertionError(f"twistd does not stop:\n{self.log[-8000:]}") from None


class Connection:
    """A client connection on which a test sends and receives lines.

    ``header`` is sent first, as a proxy does, and ``source`` is the client's address.
    """

    def __init__(self, address, *, wrap=None, receive_buffer=None, header=b"", source=None):
        is_path = isinstance(address, str)
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.socket = socket.socket(socket.AF_UNIX if is_path else family)
        self.socket.settimeout(TIMEOUT)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source:
            self.socket.bind((source, 0))
        self.socket.connect(address)
        self.socket.sendall(header)
        if wrap:
            self.socket = wrap(self.socket)
        self.file = self.socket.makefile("rb")
        self.greeting = self.line()

    def line(self):
        """Return the next line without its line ending; empty if the server has closed."""
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
                raise AssertionError(
                    f"connection closed within a response, after {len(lines)} lines"
                )
            lines.append(line.removesuffix(b"\r\n").removeprefix(b"."))
        return lines

    def rest(self):
        """Return everything that the server sends until it closes the connection."""
        try:
            return self.file.read()
        except ConnectionResetError:
            return b""

    def abandon(self):
        """Close the connection without QUIT."""
        self.socket.close()
        self.file.close()

    def close(self):
        """Send QUIT and wait until the server has closed the connection; return the reply."""
        reply = self.ask(b"QUIT")
        self.rest()
        self.abandon()
        return reply


class ServerTestCase(TestCase):
    """Tests that share one server, which the first of them starts."""

    options = ()
    """Options of ``twistd pop3`` besides those for the mail directory and the port."""

    _current = (None, None)

    @property
    def server(self):
        """The server of this class; accessing it stops that of the previous class."""
        owner, server = ServerTestCase._current
        if owner is not type(self) or server.process.poll() is not None:
            if server is not None:
                server.stop()
            server = self.new_server()
            ServerTestCase._current = type(self), server
        return server

    def tearDown(self):
        """Check that the server has loaded everything at its start, as it must with --chroot."""
        _, server = ServerTestCase._current
        self.assertEqual(server.loads if server else "", "")

    def new_server(self):
        """Start the server of this class."""
        return Server(*self.options)

    def login(self, messages=(), **options):
        """Add a user with these messages; return a logged-in connection and the Maildir."""
        name, maildir = self.server.add_user(messages)
        connection = self.server.login(name, **options)
        self.addCleanup(connection.abandon)
        return connection, maildir


class Poller:
    """Clients that connect to a server, each as soon as its last connection has ended.

    They run in a ``with`` block; each greets the server and sends QUIT.

    :ivar outcomes: for each client what has become of its connections, in order: ``served``, or the
        name of an error.
    """

    def __init__(self, address, clients=4):
        self.outcomes = [[] for _ in range(clients)]
        self._address = address
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(each,)) for each in self.outcomes]

    def __enter__(self):
        """Start the clients."""
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *error):
        """Wait until each client has ended its last connection."""
        self._is_over.set()
        for each in self._threads:
            each.join()

    def polls(self):
        """Return how many connections have ended."""
        return sum(map(len, self.outcomes))

    def wait(self, number=50):
        """Wait until this many more connections have ended."""
        before = self.polls()
        until(lambda: self.polls() >= before + number, "polls")

    def _run(self, outcomes):
        # An address that a client which connects to a port without a server cannot connect to
        # itself from.
        source = ("127.0.0.2", 0)
        while not self._is_over.is_set():
            try:
                with socket.create_connection(self._address, TIMEOUT, source) as client:
                    greeting = client.recv(100)
                    client.sendall(b"QUIT\r\n")
                    reply = client.makefile("rb").read()
                served = greeting[:3] == reply[:3] == b"+OK"
                outcomes.append("served" if served else repr(greeting + reply))
            except OSError as error:
                outcomes.append(type(error).__name__)
            time.sleep(0.001)
