"""``popserv session`` on pipes, files, terminals and sockets, started by inetd and fetchmail."""

import fcntl
import os
import poplib
import pwd
import select
import signal
import socket
import ssl
import subprocess
import sys
import termios
import time
import tty
from contextlib import contextmanager
from pathlib import Path

from twisted.trial.unittest import TestCase

from examples.cluster.processes import free_port
from popserv.auth.passwords.users_file import default_path
from popserv.auth.passwords.users_file_editing import set_secret
from popserv.testing import naive_octets
from tests.certificates import issue, make_authority
from tests.live.harness import (
    BIN,
    CHECKOUT,
    LOOPBACK,
    TIMEOUT,
    Connection,
    Fetchmail,
    Server,
    accepts,
    deliver,
    downgraded,
    read_maildir,
    require_programs,
    run,
    temporary_directory,
    until,
    wire_form,
)
from tests.transports.test_unix_users import UNKNOWN_UID

MB = 1 << 20
SMALL = [b"Subject: one\n\n1\n", b"Subject: two\n\n.\n2\n"]
GREETING = b"+OK POP3 server ready, ann's maildrop has 2 messages (41 octets)"
LARGE = b"Subject: large\n\n" + (b"x" * 76 + b"\n.\n") * (40 * MB // 79)
IS_ROOT = os.geteuid() == 0
SIGNAL_IN_THREAD = """
import os, signal, sys, threading, time
from popserv.commandline.main import main

def send(descriptor):
    os.read(descriptor, 1)
    time.sleep(0.2)  # until the main thread waits for input
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

threading.Thread(target=send, args=[int(sys.argv[1])], daemon=True).start()
sys.exit(main(["session", *sys.argv[2:]]))
"""
"""A session that sends SIGTERM to one of its threads when it can read from a descriptor."""

SESSIONS_OF_PREFIXES = """
import os, sys
from popserv.commandline import session
from popserv.commandline.main import main

directory, login, commands, *arguments = sys.argv[1:]
commands = (login + commands).encode()
for length in range(len(login), len(commands) + 1):
    read_end, write_end = os.pipe()
    os.write(write_end, commands[:length])
    os.close(write_end)
    # Starting Python for each takes too long.
    pid = os.fork()
    if pid == 0:
        os.dup2(read_end, 0)
        os.dup2(os.open(f"{directory}/{length}", os.O_WRONLY | os.O_CREAT), 1)
        os._exit(main(["session", *arguments]))
    os.close(read_end)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
"""A session for each beginning of commands after a login; its output is in a file for each."""

# Measure the coverage of these processes, too.
COVERAGE = (
    *(sys.executable, "-m", "coverage", "run", f"--rcfile={CHECKOUT}/pyproject.toml"),
    *("--parallel-mode", f"--data-file={CHECKOUT}/.coverage"),
)
if "coverage" not in sys.modules:
    COVERAGE = ()
SESSION = (*COVERAGE, str(BIN / "popserv"), "session")


def lock(maildir):
    """Lock a Maildir; return the descriptor that holds the lock."""
    descriptor = os.open(maildir, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def is_locked(maildir):
    """Tell whether another process holds a Maildir's lock."""
    try:
        os.close(lock(maildir))
    except BlockingIOError:
        return True
    return False


class SessionCase(TestCase):
    """Tests in which ann has two messages."""

    messages = SMALL

    def setUp(self):
        """Create her Maildir, and a users file for sessions with a login."""
        self.root = temporary_directory(self)
        self.maildir = self.root / "ann"
        deliver(self.maildir, self.messages)
        set_secret(default_path(str(self.root)), b"ann", b"{PLAIN}secret", new=True)
        self.errors = temporary_directory(self) / "errors"

    def command(self, *options, login=False):
        """Return the command line of a session."""
        user = ["--login"] if login else ["--user", "ann"]
        return [*SESSION, "--maildir", str(self.root), *user, *options]

    def session(self, *options, commands=b"", login=False, **keywords):
        """Run a session with these commands as its input; return the completed process."""
        if "stdin" not in keywords:
            keywords["input"] = commands
        command = self.command(*options, login=login)
        return subprocess.run(
            command, capture_output=True, timeout=TIMEOUT, check=False, **keywords
        )

    def start(self, *options, login=False, **streams):
        """Start a session; by default its standard error is a file."""
        with self.errors.open("ab") as errors:
            streams.setdefault("stderr", errors)
            process = subprocess.Popen(
                self.command(*options, login=login), start_new_session=True, **streams
            )
        self.addCleanup(self.kill, process)
        return process

    def kill(self, process):
        """Kill a process if it is still running, and close its streams."""
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()

    def start_on_pipes(self, *options, greeting=GREETING):
        """Start a session on pipes, and read its greeting."""
        process = self.start(*options, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self.assertEqual(process.stdout.readline(), greeting + b"\r\n")
        return process

    def ask(self, process, command):
        """Send a command; return the next line."""
        process.stdin.write(command + b"\r\n")
        return process.stdout.readline()

    def assert_ended(self, process, code):
        """Wait for the end of a session; check its exit code, and that the lock is released."""
        self.assertEqual(process.wait(TIMEOUT), code, self.errors.read_text())
        self.assertFalse(is_locked(self.maildir))


class PipeTests(SessionCase):
    """Sessions on pipes and files, as a forced command of sshd or in a script."""

    def test_session(self):
        """The greeting reports the maildrop, QUIT removes marked messages; the exit code is 0."""
        done = self.session(commands=b"DELE 1\r\nRETR 2\r\nQUIT\r\nNOOP\r\n")
        lines = done.stdout.split(b"\r\n")
        self.assertEqual(lines[:2], [GREETING, b"+OK message 1 deleted"])
        self.assertEqual(lines[3:7], [b"Subject: two", b"", b"..", b"2"])
        self.assertIn(b"signing off", lines[8])
        self.assertEqual(lines[9:], [b""])
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        self.assertEqual(read_maildir(self.maildir), SMALL[1:])

    def test_end_of_input(self):
        """At the end of the input every command is answered, and no message is removed."""
        for commands in (b"", b"DELE 1\r\nSTAT\r\n", b"DELE 1\r\nSTAT\r\nQUI"):
            done = self.session(commands=commands)
            self.assertEqual(done.stdout.count(b"\r\n"), 1 + commands.count(b"\n"))
            self.assertEqual((done.returncode, done.stderr), (0, b""))
        self.assertEqual(read_maildir(self.maildir), SMALL)

    def test_each_end_of_input(self):
        """Wherever the input ends before the end of QUIT, also within it, nothing is removed."""
        for user, login in (("--login", "USER ann\r\nPASS secret\r\n"), ("--user=ann", "")):
            end = "DELE 1\r\nQUIT\r\n"
            commands = login + end
            output = temporary_directory(self)
            done = subprocess.run(
                [
                    *(sys.executable, "-c", SESSIONS_OF_PREFIXES, output, login, end),
                    *(user, "--maildir", self.root),
                ],
                capture_output=True,
                check=False,
                timeout=TIMEOUT,
            )
            self.assertEqual((done.returncode, done.stderr), (0, b""))
            self.assertEqual(done.stdout.split(), [b"0"] * (len(end) + 1))
            for length in range(len(login), len(commands)):
                replies = (output / str(length)).read_bytes()
                complete = commands[:length].count("\n")
                self.assertEqual(replies.count(b"\r\n+OK"), complete, (length, replies))
                self.assertNotIn(b"signing off", replies)
            # The whole of them has removed one message; no beginning has removed any.
            self.assertIn(b"(1 message left)", (output / str(len(commands))).read_bytes())
            self.assertEqual(read_maildir(self.maildir), SMALL[1:])
            (self.maildir / "new" / "1600000000.M1P1.host").write_bytes(SMALL[0])

    def test_file(self):
        """Input and output may be files."""
        script, output = self.errors.parent / "script", self.errors.parent / "output"
        script.write_bytes(b"LIST\r\n" * 20_000 + b"DELE 2\r\nQUIT\r\n")
        with script.open("rb") as stdin, output.open("wb") as stdout:
            process = self.start(stdin=stdin, stdout=stdout)
            self.assert_ended(process, 0)
        self.assertEqual(output.read_bytes().count(b"+OK 2 messages (41 octets)\r\n"), 20_000)
        self.assertEqual(read_maildir(self.maildir), SMALL[:1])

    def test_pipelining(self):
        """Pipelined commands are answered in order."""
        commands = [(b"RETR %d\r\n" % (n % 2 + 1)) for n in range(5000)]
        done = self.session(commands=b"".join(commands) + b"QUIT\r\n")
        replies = [b"+OK %d octets\r\n" % naive_octets(each) for each in SMALL]
        self.assertEqual(done.stdout.count(replies[0]), 2500)
        self.assertEqual(done.stdout.count(replies[1]), 2500)
        self.assertEqual(done.returncode, 0)

    def test_login(self):
        """--login requires a login, and accepts cleartext passwords on a pipe."""
        for commands, code, last in (
            (b"USER ann\r\nPASS secret\r\nQUIT\r\n", 0, b"signing off (2 messages left)\r\n"),
            (b"QUIT\r\n", 0, b"signing off\r\n"),
            (b"CAPA\r\n", 0, b".\r\n"),
            (b"?\r\n" * 20, 1, b"\r\n"),
        ):
            done = self.session(commands=commands, login=True)
            self.assertEqual(done.stdout.split(b"\r\n")[0], b"+OK POP3 server ready")
            self.assertEqual((done.returncode, done.stdout[-len(last) :]), (code, last))

    def test_refused(self):
        """If the maildrop cannot be opened, the greeting is -ERR and the exit code 1."""
        descriptor = lock(self.maildir)
        done = self.session(commands=b"STAT\r\n")
        os.close(descriptor)
        self.assertEqual(done.stdout, b"-ERR [IN-USE] maildrop already locked\r\n")
        self.assertEqual((done.returncode, done.stderr), (1, b""))
        self.maildir.rename(self.root / "bob")
        self.maildir.write_bytes(b"no directory")
        done = self.session(commands=b"STAT\r\n")
        self.assertEqual(done.stdout[:15], b"-ERR [SYS/PERM]")
        self.assertEqual((done.returncode, done.stderr.count(b"was refused with")), (1, 1))
        done = self.session("--user", "../ann", commands=b"STAT\r\n")
        self.assertEqual((done.returncode, done.stdout[:15]), (1, b"-ERR [SYS/PERM]"))
        self.assertIn(b'"../ann" is not a valid name for a maildrop', done.stderr)

    def test_limits(self):
        """A long line, and too many bad commands, end the session as on a port."""
        for commands in (b"x" * MB, b"?\r\n" * 100):
            done = self.session(commands=b"DELE 1\r\n" + commands + b"\r\nQUIT\r\n")
            self.assertEqual(done.returncode, 1)
        self.assertEqual(read_maildir(self.maildir), SMALL)

    def test_idle(self):
        """The idle timeout ends the session without a reply; a short one logs a warning."""
        process = self.start_on_pipes("--timeout", "0.2")
        self.assert_ended(process, 1)
        self.assertEqual(process.stdout.read(), b"")
        self.assertIn("RFC 1725 section 3 requires at least 600", self.errors.read_text())

    def test_signals(self):
        """SIGTERM, SIGHUP and SIGINT end the session without UPDATE and release the lock."""
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            process = self.start_on_pipes()
            self.ask(process, b"DELE 1")
            self.assertTrue(is_locked(self.maildir))
            process.send_signal(number)
            self.assert_ended(process, 1)
            self.assertEqual((process.stdout.read(), self.errors.read_bytes()), (b"", b""))
        self.assertEqual(read_maildir(self.maildir), SMALL)

    def test_signal_in_thread(self):
        """A signal ends the session even if it does not interrupt the wait for input."""
        read_end, write_end = os.pipe()
        self.addCleanup(os.close, read_end)
        self.addCleanup(os.close, write_end)
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                SIGNAL_IN_THREAD,
                str(read_end),
                *self.command()[len(SESSION) :],
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            pass_fds=[read_end],
        )
        self.addCleanup(self.kill, process)
        self.assertEqual(process.stdout.readline(), GREETING + b"\r\n")
        os.write(write_end, b"\n")
        self.assertEqual(process.wait(TIMEOUT), 1)
        self.assertFalse(is_locked(self.maildir))

    def test_nohup(self):
        """A signal that was ignored at the start stays ignored."""
        process = self.start(
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
        )
        process.stdout.readline()
        process.send_signal(signal.SIGHUP)
        self.assertEqual(self.ask(process, b"STAT"), b"+OK 2 41\r\n")
        self.ask(process, b"QUIT")
        self.assert_ended(process, 0)

    def test_disconnected(self):
        """A client that closes both pipes, or the one it reads, leaves no lock and no change."""
        for pipes, code in (("stdin stdout", None), ("stdout", 1)):
            process = self.start_on_pipes()
            self.ask(process, b"DELE 1")
            for name in pipes.split():
                getattr(process, name).close()
            process.wait(TIMEOUT)
            self.assertIn(process.returncode, (0, 1) if code is None else (code,))
            self.assertFalse(is_locked(self.maildir))
        self.assertEqual(read_maildir(self.maildir), SMALL)

    def test_output_error(self):
        """An output error ends the session, and no message is removed."""
        with open("/dev/full", "wb") as full:
            process = self.start(stdin=subprocess.PIPE, stdout=full)
            process.communicate(b"DELE 1\r\nQUIT\r\n", TIMEOUT)
            self.assert_ended(process, 1)
        self.assertEqual(read_maildir(self.maildir), SMALL)

    def test_closed(self):
        """If standard input or output is closed, the command prints one line and exits."""
        for closed, descriptor in (("<&-", 0), (">&-", 1)):
            done = subprocess.run(
                ["/bin/sh", "-c", f'exec "$@" {closed}', "sh", *self.command()],
                capture_output=True,
                stdin=subprocess.DEVNULL,
                check=False,
            )
            text = (
                f"popserv session: file descriptor {descriptor} is closed; "
                "it must lead to the client\n"
            )
            self.assertEqual((done.returncode, done.stdout), (1, b""))
            self.assertEqual(done.stderr.decode(), text)
        for closed, code in (("<&- >&- 2>&-", 1), ("2>&-", 0)):
            done = subprocess.run(
                ["/bin/sh", "-c", f'exec "$@" {closed}', "sh", *self.command()],
                input=b"QUIT\r\n",
                stdout=subprocess.PIPE,
                check=False,
            )
            self.assertEqual(done.returncode, code)

    def test_flags(self):
        """Standard input and output are blocking again after the session."""
        (in_, to_session), (from_session, out) = (
            [each.detach() for each in socket.socketpair()] for _ in range(2)
        )
        for each in (in_, to_session, from_session, out):
            self.addCleanup(os.close, each)
        for number in (None, signal.SIGTERM):
            process = self.start(stdin=in_, stdout=out)
            self.assertEqual(os.read(from_session, 1000), GREETING + b"\r\n")
            self.assertEqual([os.get_blocking(each) for each in (in_, out)], [False] * 2)
            if number is None:
                os.write(to_session, b"QUIT\r\n")
                self.assert_ended(process, 0)
                os.read(from_session, 1000)
            else:
                process.send_signal(number)
                self.assert_ended(process, 1)
            self.assertEqual([os.get_blocking(each) for each in (in_, out)], [True] * 2)

    def test_locks(self):
        """A session and a server respect each other's locks."""
        server = Server(root=self.root)
        self.addCleanup(server.stop)
        other = server.login("ann")
        self.addCleanup(other.abandon)
        self.assertEqual(self.session().stdout[:14], b"-ERR [IN-USE] ")
        other.close()
        process = self.start_on_pipes()
        connection = server.connect()
        self.addCleanup(connection.abandon)
        connection.ask(b"USER ann")
        self.assertEqual(connection.ask(b"PASS secret")[:14], b"-ERR [IN-USE] ")
        self.ask(process, b"QUIT")
        self.assert_ended(process, 0)
        self.assertEqual(connection.ask(b"USER ann")[:3], b"+OK")
        self.assertEqual(connection.ask(b"PASS secret")[:3], b"+OK")

    def test_usage(self):
        """An invalid command line prints one line to standard error; the exit code is 2."""
        user, login = (
            ["--maildir", str(self.root), *user] for user in (["--user", "ann"], ["--login"])
        )
        for options, message in (
            ([*login, "--user", "ann"], "either --user NAME or --login is required"),
            (["--user", "ann"], "--maildir is required"),
            ([*user, "--maildir", "/nowhere"], "/nowhere does not exist"),
            ([*user, "--frob"], "option --frob not recognized"),
            ([*user, "here"], "'here' is not an option"),
            ([*user, "--sasl", "PLAIN"], "--sasl requires that clients log in"),
            ([*user, "--auth", "memory:a:b"], "--auth requires that clients log in"),
            ([*user, "--require-tls"], "--require-tls"),
            ([*login, "--require-tls"], "--require-tls requires --certificate"),
            ([*login, "--private-key", "x"], "--private-key requires --certificate"),
        ):
            done = run(*SESSION, *options)
            self.assertEqual((done.returncode, done.stdout), (2, b""))
            self.assertEqual(done.stderr.count(b"\n"), 1, done.stderr)
            self.assertIn(message, done.stderr.decode())
        for command in ((), ("session",)):
            self.assertIn(b"session", run("popserv", *command, "--help").stdout)

    def test_dialect(self):
        """--dialect selects the commands."""
        commands = b"STAT\r\nCAPA\r\nUSER ann\r\nPASS secret\r\nLAST\r\nQUIT\r\n"
        done = self.session("--dialect", "rfc1460", commands=commands, login=True)
        lines = done.stdout.split(b"\r\n")
        self.assertEqual(lines[1:3], [b"-ERR log in first", b"-ERR unknown command"])
        self.assertEqual((lines[5], done.returncode), (b"+OK 0", 0))

    def test_utf8(self):
        """Messages are sent as stored, unless --utf8 is given and the client has not sent UTF8."""
        raw = "Subject: über\n\nü\n".encode()
        deliver(self.maildir, [raw])
        commands = b"RETR 3\r\nUTF8\r\nRETR 3\r\nQUIT\r\n"
        done = self.session(commands=commands)
        stored = b"+OK %d octets\r\n" % naive_octets(raw) + wire_form(raw) + b".\r\n"
        replies = done.stdout.partition(b"\r\n")[2]
        expected = stored + b"-ERR unknown command\r\n" + stored
        self.assertEqual(replies[: len(expected)], expected)
        done = self.session("--utf8", commands=commands)
        replies = done.stdout.partition(b"\r\n")[2]
        self.assertIn(b"\r\n" + wire_form(downgraded(raw)) + b".\r\n", replies)
        self.assertIn(b"+OK messages are sent as stored\r\n" + stored, replies)

    def test_no_tls_on_pipes(self):
        """--certificate requires a socket."""
        certificate = self.errors.parent / "pop.pem"
        certificate.write_bytes(issue("localhost").pem())
        done = self.session("--certificate", certificate, login=True)
        self.assertEqual((done.returncode, done.stdout), (2, b""))
        self.assertIn(
            b"--certificate requires that standard input and output are one connected", done.stderr
        )


class SlowReaderTests(SessionCase):
    """A client that reads a message of 40 MB slowly, or stops reading."""

    messages = [LARGE]

    def memory(self, process):
        """Return the resident memory of a process in octets."""
        status = Path(f"/proc/{process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) << 10

    def start_retr(self, process):
        """Send RETR, and read the start of the message."""
        process.stdout.readline()
        process.stdin.write(b"RETR 1\r\n")
        until(lambda: len(os.read(process.stdout.fileno(), 1000)) > 0, "the message")

    def test_whole(self):
        """The message arrives octet for octet, and is never held in memory."""
        process = self.start(stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        process.stdout.readline()
        before = self.memory(process)
        process.stdin.write(b"RETR 1\r\nQUIT\r\n")
        parts, max_memory = [], 0
        while part := os.read(process.stdout.fileno(), MB):
            parts.append(part)
            if len(parts) % 50 == 0:
                max_memory = max(max_memory, self.memory(process))
        octets = naive_octets(LARGE)
        body = wire_form(LARGE).replace(b"\r\n.", b"\r\n..")
        received = b"".join(parts)
        start = b"+OK %d octets\r\n" % octets
        self.assertEqual(received[: len(start)], start)
        self.assertTrue(received[len(start) :].startswith(body + b".\r\n+OK "))
        self.assertLess(max_memory - before, 15 * MB)
        self.assert_ended(process, 0)

    def test_slow(self):
        """A slow client that keeps reading is not disconnected by the timeout."""
        process = self.start(
            *("--timeout", "1"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self.start_retr(process)
        process.stdin.write(b"QUIT\r\n")
        for _ in range(12):
            time.sleep(0.25)
            os.read(process.stdout.fileno(), 10_000)
        rest = process.stdout.read()
        self.assertIn(b"\r\n.\r\n+OK ", rest[-200:])
        self.assert_ended(process, 0)

    def test_closed_before_reply_to_quit(self):
        """If the client stops reading before the reply to QUIT, the exit code is 1."""
        process = self.start(stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self.start_retr(process)
        process.stdin.write(b"QUIT\r\n")
        process.stdout.close()
        self.assert_ended(process, 1)

    def test_closed_before_last_output(self):
        """If the client disconnects while output is pending, the exit code is 1."""
        process = self.start(stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self.start_retr(process)
        process.stdin.write(b"QUIT\r\n")
        # The end of the message stays in the output buffer of the process.
        left = naive_octets(LARGE)
        while left > 200_000:
            left -= len(os.read(process.stdout.fileno(), 50_000))
        process.stdin.close()
        process.stdout.close()
        self.assert_ended(process, 1)

    def test_killed(self):
        """A truncated message does not end with the terminator, and the lock is released."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            process = self.start(stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
            self.start_retr(process)
            process.send_signal(number)
            rest = process.stdout.read()
            self.assertFalse(rest.endswith(b"\r\n.\r\n"))
            self.assertLess(len(rest), MB)
            process.wait(TIMEOUT)
            self.assertFalse(is_locked(self.maildir))

    def test_stopped_reading(self):
        """The idle timeout ends the session of a client that stops reading."""
        process = self.start(
            *("--timeout", "1"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self.start_retr(process)
        self.assert_ended(process, 1)


class TerminalTests(SessionCase):
    """Sessions on a terminal: a login shell, or a serial line."""

    def open(self, *options, raw=True):
        """Start a session on a new terminal; return the process and the terminal's master."""
        ours, theirs = os.openpty()
        if raw:
            tty.setraw(theirs)
        process = self.start(
            *options,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self.shared = theirs
        self.addCleanup(os.close, theirs)
        return process, ours

    def read_until(self, ours, end):
        """Read from the terminal until the text ends with this."""
        text = b""
        while not text.endswith(end):
            if not select.select([ours], [], [], TIMEOUT)[0]:
                raise AssertionError(f"timed out waiting for {end!r} after {text!r}")
            chunk = os.read(ours, 1000)
            if not chunk:
                raise AssertionError(f"end of file instead of {end!r} after {text!r}")
            text += chunk
        return text

    def test_program(self):
        """On a raw terminal every octet is the same as on a socket."""
        process, ours = self.open()
        self.addCleanup(os.close, ours)
        self.assertEqual(self.read_until(ours, b"\r\n"), GREETING + b"\r\n")
        os.write(ours, b"RETR 2\r\n")
        self.assertEqual(
            self.read_until(ours, b"\r\n.\r\n"),
            b"+OK 22 octets\r\nSubject: two\r\n\r\n..\r\n2\r\n.\r\n",
        )
        os.write(ours, b"QUIT\r\n")
        self.read_until(ours, b"(2 messages left)\r\n")
        self.assert_ended(process, 0)
        self.assertTrue(os.get_blocking(self.shared))

    def test_master(self):
        """The standard streams may be the master of a terminal."""
        ours, theirs = os.openpty()
        # When the last descriptor of the master is closed, Linux discards unread output.
        self.addCleanup(os.close, ours)
        self.addCleanup(os.close, theirs)
        tty.setraw(theirs)
        process = self.start(stdin=ours, stdout=ours)
        self.assertEqual(self.read_until(theirs, b"\r\n"), GREETING + b"\r\n")
        os.write(theirs, b"QUIT\r\n")
        self.read_until(theirs, b"(2 messages left)\r\n")
        self.assert_ended(process, 0)

    def test_person(self):
        """On a terminal in the usual mode people can type commands, and end the session with ^D."""
        process, ours = self.open(raw=False)
        self.addCleanup(os.close, ours)
        self.read_until(ours, b"octets)\r\r\n")
        os.write(ours, b"STAT\r")
        self.read_until(ours, b"+OK 2 41\r\r\n")
        os.write(ours, b"\x04")
        self.assert_ended(process, 0)

    def test_hang_up(self):
        """A hangup ends the session without UPDATE."""
        process, ours = self.open()
        self.read_until(ours, b"\r\n")
        os.write(ours, b"DELE 1\r\n")
        self.read_until(ours, b"deleted\r\n")
        os.close(ours)
        self.assert_ended(process, 1)
        self.assertEqual(read_maildir(self.maildir), SMALL)

    def test_interrupt(self):
        """^C ends the session without UPDATE."""
        process, ours = self.open(raw=False)
        self.addCleanup(os.close, ours)
        self.read_until(ours, b"\r\r\n")
        os.write(ours, b"DELE 1\r")
        self.read_until(ours, b"deleted\r\r\n")
        os.write(ours, b"\x03")
        self.assert_ended(process, 1)
        self.assertEqual(read_maildir(self.maildir), SMALL)

    def test_wrong_command(self):
        """Errors in the command line are printed to the terminal."""
        process, ours = self.open("--frob")
        self.addCleanup(os.close, ours)
        self.assertIn(b"--frob not recognized", self.read_until(ours, b"\n"))
        self.assert_ended(process, 2)


class InetdTests(SessionCase):
    """Sessions with one socket as standard input, output and error."""

    @contextmanager
    def connect(self, *options, login=True, family=socket.AF_INET):
        """Start a session as inetd does; yield the process, the client's socket and its file."""
        address = "127.0.0.1" if family == socket.AF_INET else "::1"
        with socket.create_server((address, 0), family=family) as server:
            client = socket.create_connection(server.getsockname()[:2])
            accepted, _ = server.accept()
        with accepted:
            process = self.start(
                *options, login=login, stdin=accepted, stdout=accepted, stderr=accepted
            )
        client.settimeout(TIMEOUT)
        with client, client.makefile("rwb", 0) as file:
            yield process, client, file

    def send(self, file, line):
        """Send a line; return the next line."""
        file.write(line + b"\r\n")
        return file.readline()

    def test_login(self):
        """A session works as on a port, and the client does not see log messages."""
        for family in (socket.AF_INET, socket.AF_INET6):
            with self.connect("--timeout", "300", family=family) as (process, client, file):
                self.assertEqual(file.readline(), b"+OK POP3 server ready\r\n")
                self.assertEqual(self.send(file, b"USER ann")[:3], b"+OK")
                self.assertEqual(self.send(file, b"PASS secret")[:3], b"+OK")
                self.assertEqual(self.send(file, b"STAT"), b"+OK 2 41\r\n")
                self.assertEqual(self.send(file, b"QUIT")[:3], b"+OK")
                self.assertEqual(client.recv(10), b"")
                self.assert_ended(process, 0)

    def test_user(self):
        """--user works on a socket, too."""
        with self.connect(login=False) as (process, client, file):
            self.assertEqual(file.readline(), GREETING + b"\r\n")
            client.shutdown(socket.SHUT_WR)
            self.assertEqual(file.readline(), b"")
            self.assert_ended(process, 0)

    def test_half_close(self):
        """A client that half-closes the connection gets all replies."""
        with self.connect() as (process, client, file):
            client.sendall(b"USER ann\r\nPASS secret\r\nDELE 1\r\nSTAT\r\n")
            client.shutdown(socket.SHUT_WR)
            self.assertEqual(file.read().split(b"\r\n")[-2], b"+OK 1 22")
            self.assert_ended(process, 0)
        self.assertEqual(read_maildir(self.maildir), SMALL)

    def test_reset(self):
        """A client that resets the connection leaves no lock and no change."""
        with self.connect(login=False) as (process, client, file):
            file.readline()
            self.send(file, b"DELE 1")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            file.close()
            client.close()
            self.assert_ended(process, 1)
        self.assertEqual(read_maildir(self.maildir), SMALL)

    def test_syslog(self):
        """With --syslog the client does not see the log."""
        with self.connect("--syslog", "--timeout", "60") as (process, _, file):
            file.write(b"USER ann\r\nPASS secret\r\nQUIT\r\n")
            lines = file.read().split(b"\r\n")
            self.assertEqual([line[:4] for line in lines], [b"+OK "] * 4 + [b""])
            self.assert_ended(process, 0)

    def test_failed_logins(self):
        """The third failed login closes the connection."""
        with self.connect() as (process, _, file):
            file.readline()
            self.send(file, b"USER ann\r\nPASS a\r\nUSER ann\r\nPASS b\r\nUSER ann\r\nPASS c")
            self.assertEqual(file.read().count(b"[AUTH]"), 3)
            self.assert_ended(process, 1)

    @contextmanager
    def over_tls(self):
        """Start a session with STLS; yield the process and the client's TLS socket."""
        authority = make_authority()
        certificate = self.errors.parent / "pop.pem"
        certificate.write_bytes(issue("localhost", issuer=authority).pem())
        context = ssl.create_default_context(cadata=authority.certificate_pem().decode())
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        options = ("--certificate", str(certificate), "--require-tls")
        with self.connect(*options) as (process, client, file):
            file.readline()
            self.assertEqual(self.send(file, b"USER ann")[:4], b"-ERR")
            self.assertEqual(self.send(file, b"STLS")[:3], b"+OK")
            tls_socket = context.wrap_socket(client, server_hostname="localhost")
            with tls_socket:
                yield process, tls_socket

    def test_stls(self):
        """STLS requires only --certificate."""
        with self.over_tls() as (process, sock):
            with sock, sock.makefile("rwb", 0) as file:
                self.send(file, b"USER ann")
                self.assertEqual(self.send(file, b"PASS secret")[:3], b"+OK")
                self.assertEqual(self.send(file, b"QUIT")[:3], b"+OK")
            self.assert_ended(process, 0)

    def test_tls_closed(self):
        """The exit code is 0 if the client closes TLS properly."""
        with self.over_tls() as (process, sock):
            sock.unwrap().close()
            self.assert_ended(process, 0)

    def test_wrong_command(self):
        """Errors in the command line are not sent to the client."""
        with self.connect("--frob") as (process, _, file):
            self.assertEqual(file.read(), b"")
            self.assert_ended(process, 2)

    def test_wait(self):
        """A listening socket is rejected."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            done = self.session(stdin=server)
        self.assertEqual((done.returncode, done.stdout), (1, b""))
        self.assertIn(b"(use nowait in inetd.conf)", done.stderr)

    def test_systemd(self):
        """systemd-socket-activate starts a session for each connection."""
        program = "systemd-socket-activate"
        require_programs(self, program)
        port = free_port()
        command = [program, "--accept", "--inetd", f"--listen=127.0.0.1:{port}"]
        with self.errors.open("wb") as errors:
            process = subprocess.Popen(
                [*command, *self.command(login=True)], stdout=errors, stderr=errors
            )
        self.addCleanup(self.kill, process)
        until(lambda: "Listening on" in self.errors.read_text(), "the port")
        for left in (2, 1):
            client = poplib.POP3("127.0.0.1", port, timeout=TIMEOUT)
            client.user("ann")
            client.pass_("secret")
            self.assertEqual(client.stat()[0], left)
            client.dele(1)
            client.quit()
        self.assertEqual(read_maildir(self.maildir), [])


class SocketPairTests(SessionCase):
    """Sessions with one UNIX socket as input and output, as from sshd and fetchmail."""

    def test_fetchmail(self):
        """Fetchmail's plugin with auth ssh fetches all mail and empties the maildrop."""
        plugin = " ".join(self.command())
        fetchmail = Fetchmail(
            self, f'proto pop3 auth ssh bad-header accept plugin "{plugin}" user ann sslproto ""'
        )
        fetchmail.fetch("--nokeep", "--fetchall")
        self.assertEqual(fetchmail.messages(), SMALL)
        self.assertEqual(read_maildir(self.maildir), [])

    def test_password(self):
        """Cleartext passwords are accepted on a UNIX socket."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = self.start(login=True, stdin=theirs, stdout=theirs)
        ours.settimeout(TIMEOUT)
        with ours, ours.makefile("rwb", 0) as file:
            file.readline()
            file.write(b"USER ann\r\nPASS secret\r\nQUIT\r\n")
            self.assertEqual(file.read().count(b"+OK"), 3)
            self.assert_ended(process, 0)


_AS_USER = """\
import os, socket, sys
uid, path = int(sys.argv[1]), sys.argv[2]
os.setgroups([])
os.setuid(uid)
with socket.socket(socket.AF_UNIX) as client:
    client.settimeout(60)
    client.connect(path)
    commands = [b"QUIT\\r\\n", b"STAT\\r\\n"]
    with client.makefile("rb") as file:
        for line in file:
            sys.stdout.buffer.write(line)
            if line.startswith(b"+OK") and commands:
                client.sendall(commands.pop())
"""


class PreauthSocketTests(SessionCase):
    """``twistd pop3 --preauth``: the user comes from the credentials of the UNIX socket."""

    def setUp(self):
        """Deliver mail to two of the system's users."""
        super().setUp()
        if not IS_ROOT:
            self.skipTest("only root can change its user")
        self.users = [pwd.getpwnam(name) for name in ("daemon", "nobody")]
        for count, user in enumerate(self.users, 1):
            deliver(self.root / user.pw_name, SMALL[:count])
        self.path = temporary_directory(self) / "pop3.sock"

    def lines_for(self, uid):
        """Return the lines that a client with this user ID receives."""
        command = [sys.executable, "-c", _AS_USER, str(uid), str(self.path)]
        # If the Python is in a directory of root, other users may not be able to run it.
        options = {"capture_output": True, "timeout": TIMEOUT, "check": True}
        return subprocess.run(command, **options).stdout.split(b"\r\n")

    def assert_serves(self, server):
        """Check that two users get their own mail, and that an unknown user ID is rejected."""
        for count, user in enumerate(self.users, 1):
            lines = self.lines_for(user.pw_uid)
            self.assertEqual(
                lines[0].partition(b" (")[0],
                b"+OK POP3 server ready, %b's maildrop has %d message%b"
                % (user.pw_name.encode(), count, b"s"[: count - 1]),
            )
            self.assertEqual(lines[1][:6], b"+OK %d " % count)
        lines = self.lines_for(UNKNOWN_UID)
        self.assertEqual(lines, [b"-ERR [AUTH] you are not a user of this system", b""])
        until(lambda: f"uid {UNKNOWN_UID} has no name" in server.log, "the log")

    def test_with_listen(self):
        """--preauth works together with a port that requires passwords."""
        server = Server("--preauth", f"unix:{self.path}:mode=666", root=self.root)
        self.addCleanup(server.stop)
        self.assert_serves(server)
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o666)
        server.login("ann").close()
        server.stop()
        self.assertFalse(self.path.exists())

    def test_workers(self):
        """--preauth works with several workers."""
        server = Server(
            *("--listen", LOOPBACK, "--preauth", f"unix:{self.path}:mode=666", "--workers", "2"),
            root=self.root,
        )
        self.addCleanup(server.stop)
        for _ in range(3):
            self.assert_serves(server)
        server.login("ann").close()

    def test_alone(self):
        """--preauth alone opens no port."""
        plugin = ["pop3", "--maildir", self.root, "--preauth", f"unix:{self.path}"]
        with self.errors.open("wb") as log:
            process = subprocess.Popen(
                [BIN / "twistd", "--nodaemon", "--pidfile=", *plugin],
                stdout=log,
                stderr=log,
                cwd=self.errors.parent,
            )
        self.addCleanup(self.kill, process)
        until(lambda: accepts(str(self.path)), "the socket")
        connection = Connection(str(self.path))
        self.addCleanup(connection.abandon)
        self.assertEqual(connection.greeting[:35], b"+OK POP3 server ready, root's maild")
        self.assertNotIn("starting on 110", self.errors.read_text())
