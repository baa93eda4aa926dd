"""``popserv session`` as others start it: on pipes, terminals and files, by inetd and fetchmail."""

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

from popserv.auth.passwords.users_file import default_path
from popserv.auth.passwords.users_file_editing import set_secret
from popserv.testing import naive_octets
from tests.certificates import issue, make_authority
from tests.live.harness import (
    BIN,
    CHECKOUT,
    LOOPBACK,
    PATIENCE,
    Connection,
    Fetchmail,
    Server,
    deliver,
    need,
    run,
    stored,
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

# What the suite measures it measures of these processes, too.
MEASURED = (
    *(sys.executable, "-m", "coverage", "run", f"--rcfile={CHECKOUT}/pyproject.toml"),
    *("--parallel-mode", f"--data-file={CHECKOUT}/.coverage"),
)
if "coverage" not in sys.modules:
    MEASURED = ()
SESSION = (*MEASURED, str(BIN / "popserv"), "session")


def lock(maildir):
    """Return a descriptor that holds a Maildir's lock."""
    descriptor = os.open(maildir, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def is_locked(maildir):
    """Tell whether somebody else has it."""
    try:
        os.close(lock(maildir))
    except BlockingIOError:
        return True
    return False


class SessionCase(TestCase):
    """ann has two messages, and nobody serves them yet."""

    messages = SMALL

    def setUp(self):
        """Make her Maildir, and a users file for those who log in."""
        self.root = temporary_directory(self)
        self.maildir = self.root / "ann"
        deliver(self.maildir, self.messages)
        set_secret(default_path(str(self.root)), b"ann", b"{PLAIN}secret", new=True)
        self.errors = temporary_directory(self) / "errors"

    def command(self, *options, login=False):
        """Return the words of a command line."""
        who = ["--login"] if login else ["--user", "ann"]
        return [*SESSION, "--maildir", str(self.root), *who, *options]

    def session(self, *options, said=b"", login=False, **more):
        """Run one to its end, with this for its input."""
        if "stdin" not in more:
            more["input"] = said
        command = self.command(*options, login=login)
        return subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False, **more)

    def start(self, *options, login=False, **streams):
        """Start one; standard error goes to a file, unless it is given."""
        with self.errors.open("ab") as errors:
            streams.setdefault("stderr", errors)
            process = subprocess.Popen(
                self.command(*options, login=login), start_new_session=True, **streams
            )
        self.addCleanup(self.end, process)
        return process

    def end(self, process):
        """See that it is over."""
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()

    def piped(self, *options, greeting=GREETING):
        """Start one on pipes, and read its greeting."""
        process = self.start(*options, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self.assertEqual(process.stdout.readline(), greeting + b"\r\n")
        return process

    def ask(self, process, command):
        """Say a line and return the next one."""
        process.stdin.write(command + b"\r\n")
        return process.stdout.readline()

    def assert_ended(self, process, code):
        """Wait for its end, after which nobody has the lock."""
        self.assertEqual(process.wait(PATIENCE), code, self.errors.read_text())
        self.assertFalse(is_locked(self.maildir))


class PipeTests(SessionCase):
    """Pipes and files: the forced command of sshd, and scripts."""

    def test_session(self):
        """The greeting is the login's answer; QUIT removes what is marked, and the code is 0."""
        done = self.session(said=b"DELE 1\r\nRETR 2\r\nQUIT\r\nNOOP\r\n")
        lines = done.stdout.split(b"\r\n")
        self.assertEqual(lines[:2], [GREETING, b"+OK message 1 deleted"])
        self.assertEqual(lines[3:7], [b"Subject: two", b"", b"..", b"2"])
        self.assertIn(b"signing off", lines[8])
        self.assertEqual(lines[9:], [b""])
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        self.assertEqual(stored(self.maildir), SMALL[1:])

    def test_end_of_input(self):
        """Without QUIT all that was said is answered, nothing removed, and the code is 0."""
        for said in (b"", b"DELE 1\r\nSTAT\r\n", b"DELE 1\r\nSTAT\r\nQUI"):
            done = self.session(said=said)
            self.assertEqual(done.stdout.count(b"\r\n"), 1 + said.count(b"\n"))
            self.assertEqual((done.returncode, done.stderr), (0, b""))
        self.assertEqual(stored(self.maildir), SMALL)

    def test_file(self):
        """Input may be a file, and so may output."""
        script, output = self.errors.parent / "script", self.errors.parent / "output"
        script.write_bytes(b"LIST\r\n" * 20_000 + b"DELE 2\r\nQUIT\r\n")
        with script.open("rb") as said, output.open("wb") as heard:
            process = self.start(stdin=said, stdout=heard)
            self.assert_ended(process, 0)
        self.assertEqual(output.read_bytes().count(b"+OK 2 messages (41 octets)\r\n"), 20_000)
        self.assertEqual(stored(self.maildir), SMALL[:1])

    def test_pipelining(self):
        """A client that says all at once is answered in order."""
        said = [(b"RETR %d\r\n" % (n % 2 + 1)) for n in range(5000)]
        done = self.session(said=b"".join(said) + b"QUIT\r\n")
        answers = [b"+OK %d octets\r\n" % naive_octets(each) for each in SMALL]
        self.assertEqual(done.stdout.count(answers[0]), 2500)
        self.assertEqual(done.stdout.count(answers[1]), 2500)
        self.assertEqual(done.returncode, 0)

    def test_login(self):
        """--login asks for a password, which nobody can overhear on a pipe."""
        for said, code, last in (
            (b"USER ann\r\nPASS secret\r\nQUIT\r\n", 0, b"signing off (2 messages left)\r\n"),
            (b"QUIT\r\n", 0, b"signing off\r\n"),
            (b"CAPA\r\n", 0, b".\r\n"),
            (b"?\r\n" * 20, 1, b"\r\n"),
        ):
            done = self.session(said=said, login=True)
            self.assertEqual(done.stdout.split(b"\r\n")[0], b"+OK POP3 server ready")
            self.assertEqual((done.returncode, done.stdout[-len(last) :]), (code, last))

    def test_refused(self):
        """A maildrop that is busy or cannot be read is greeted -ERR, and the code is 1."""
        held = lock(self.maildir)
        done = self.session(said=b"STAT\r\n")
        os.close(held)
        self.assertEqual(done.stdout, b"-ERR [IN-USE] maildrop already locked\r\n")
        self.assertEqual((done.returncode, done.stderr), (1, b""))
        self.maildir.rename(self.root / "bob")
        self.maildir.write_bytes(b"no directory")
        done = self.session(said=b"STAT\r\n")
        self.assertEqual(done.stdout[:15], b"-ERR [SYS/PERM]")
        self.assertEqual((done.returncode, done.stderr.count(b"was refused with")), (1, 1))

    def test_limits(self):
        """Long lines and nonsense end the session, as they do on a port."""
        for said in (b"x" * MB, b"?\r\n" * 100):
            done = self.session(said=b"DELE 1\r\n" + said + b"\r\nQUIT\r\n")
            self.assertEqual(done.returncode, 1)
        self.assertEqual(stored(self.maildir), SMALL)

    def test_idle(self):
        """Nothing said for too long ends it without a word; the log warns of such a timeout."""
        process = self.piped("--timeout", "0.2")
        self.assert_ended(process, 1)
        self.assertEqual(process.stdout.read(), b"")
        self.assertIn("RFC 1725 section 3 wants 600", self.errors.read_text())

    def test_signals(self):
        """SIGTERM, SIGHUP and SIGINT end it without UPDATE, and give all up."""
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            process = self.piped()
            self.ask(process, b"DELE 1")
            self.assertTrue(is_locked(self.maildir))
            process.send_signal(number)
            self.assert_ended(process, 1)
            self.assertEqual((process.stdout.read(), self.errors.read_bytes()), (b"", b""))
        self.assertEqual(stored(self.maildir), SMALL)

    def test_nohup(self):
        """A signal that was ignored before is ignored still."""
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

    def test_client_gone(self):
        """A client that closes both ends, or the one it reads from, leaves nothing behind."""
        for which, code in (("stdin stdout", None), ("stdout", 1)):
            process = self.piped()
            self.ask(process, b"DELE 1")
            for name in which.split():
                getattr(process, name).close()
            process.wait(PATIENCE)
            self.assertIn(process.returncode, (0, 1) if code is None else (code,))
            self.assertFalse(is_locked(self.maildir))
        self.assertEqual(stored(self.maildir), SMALL)

    def test_nowhere(self):
        """Output that takes nothing ends the session, and removes nothing."""
        with open("/dev/full", "wb") as full:
            process = self.start(stdin=subprocess.PIPE, stdout=full)
            process.communicate(b"DELE 1\r\nQUIT\r\n", PATIENCE)
            self.assert_ended(process, 1)
        self.assertEqual(stored(self.maildir), SMALL)

    def test_closed(self):
        """Without input or output there is no session; one line says so, if it can."""
        for closed, told in (("<&-", 0), (">&-", 1)):
            done = subprocess.run(
                ["/bin/sh", "-c", f'exec "$@" {closed}', "sh", *self.command()],
                capture_output=True,
                stdin=subprocess.DEVNULL,
                check=False,
            )
            text = f"popserv session: descriptor {told} is closed, where the client should be\n"
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
        """Input and output block again at the end: the next program finds them so."""
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
        """A running server's sessions keep this one out, and the other way round."""
        server = Server(root=self.root)
        self.addCleanup(server.stop)
        other = server.login("ann")
        self.addCleanup(other.abandon)
        self.assertEqual(self.session().stdout[:14], b"-ERR [IN-USE] ")
        other.close()
        process = self.piped()
        connection = server.connect()
        self.addCleanup(connection.abandon)
        connection.ask(b"USER ann")
        self.assertEqual(connection.ask(b"PASS secret")[:14], b"-ERR [IN-USE] ")
        self.ask(process, b"QUIT")
        self.assert_ended(process, 0)
        self.assertEqual(connection.ask(b"USER ann")[:3], b"+OK")
        self.assertEqual(connection.ask(b"PASS secret")[:3], b"+OK")

    def test_usage(self):
        """A wrong command line is one line on standard error, nothing on output, and code 2."""
        user, login = (
            ["--maildir", str(self.root), *who] for who in (["--user", "ann"], ["--login"])
        )
        for options, told in (
            ([*login, "--user", "ann"], "give one of --user NAME"),
            (["--user", "ann"], "--maildir ROOT is needed"),
            ([*user, "--maildir", "/nowhere"], "/nowhere is not there"),
            ([*user, "--frob"], "option --frob not recognized"),
            ([*user, "--user", "../ann"], "no name for a maildrop"),
            ([*user, "here"], "Wrong number of arguments"),
            ([*user, "--sasl", "PLAIN"], "--sasl is for logins"),
            ([*user, "--auth", "memory:a:b"], "--auth is for logins"),
            ([*user, "--require-tls"], "--require-tls"),
            ([*login, "--require-tls"], "--require-tls needs --certificate"),
            ([*login, "--private-key", "x"], "--private-key needs --certificate"),
        ):
            done = run(*SESSION, *options)
            self.assertEqual((done.returncode, done.stdout), (2, b""))
            self.assertEqual(done.stderr.count(b"\n"), 1, done.stderr)
            self.assertIn(told, done.stderr.decode())
        for command in ((), ("session",)):
            self.assertIn(b"session", run("popserv", *command, "--help").stdout)

    def test_dialect(self):
        """A dialect's commands are there, and no other one's."""
        said = b"STAT\r\nCAPA\r\nUSER ann\r\nPASS secret\r\nLAST\r\nQUIT\r\n"
        done = self.session("--dialect", "rfc1460", said=said, login=True)
        lines = done.stdout.split(b"\r\n")
        self.assertEqual(lines[1:3], [b"-ERR log in first", b"-ERR unknown command"])
        self.assertEqual((lines[5], done.returncode), (b"+OK 0", 0))

    def test_no_tls_on_pipes(self):
        """A certificate needs a socket, and says so."""
        certificate = self.errors.parent / "pop.pem"
        certificate.write_bytes(issue("localhost").pem())
        done = self.session("--certificate", certificate, login=True)
        self.assertEqual((done.returncode, done.stdout), (2, b""))
        self.assertIn(b"--certificate: only on a socket can TLS begin", done.stderr)


class SlowReaderTests(SessionCase):
    """A client that reads slowly, or stops, of a message of 40 MB."""

    messages = [LARGE]

    def memory(self, process):
        """Return the octets of its memory."""
        status = Path(f"/proc/{process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) << 10

    def begun(self, process):
        """Ask for the message, and read its beginning."""
        process.stdout.readline()
        process.stdin.write(b"RETR 1\r\n")
        until(lambda: len(os.read(process.stdout.fileno(), 1000)) > 0, "the message")

    def test_whole(self):
        """It arrives to the octet, and is never in memory."""
        process = self.start(stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        process.stdout.readline()
        before = self.memory(process)
        process.stdin.write(b"RETR 1\r\nQUIT\r\n")
        heard, most = [], 0
        while part := os.read(process.stdout.fileno(), MB):
            heard.append(part)
            if len(heard) % 50 == 0:
                most = max(most, self.memory(process))
        octets = naive_octets(LARGE)
        body = wire_form(LARGE).replace(b"\r\n.", b"\r\n..")
        got = b"".join(heard)
        start = b"+OK %d octets\r\n" % octets
        self.assertEqual(got[: len(start)], start)
        self.assertTrue(got[len(start) :].startswith(body + b".\r\n+OK "))
        self.assertLess(most - before, 15 * MB)
        self.assert_ended(process, 0)

    def test_slow(self):
        """A client that takes longer for what waits for it than the timeout is not cut off."""
        process = self.start(
            *("--timeout", "1"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self.begun(process)
        process.stdin.write(b"QUIT\r\n")
        for _ in range(12):
            time.sleep(0.25)
            os.read(process.stdout.fileno(), 10_000)
        rest = process.stdout.read()
        self.assertIn(b"\r\n.\r\n+OK ", rest[-200:])
        self.assert_ended(process, 0)

    def test_gone_before_goodbye(self):
        """Who did not take all that was said to him was cut off, though he had said QUIT."""
        process = self.start(stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self.begun(process)
        process.stdin.write(b"QUIT\r\n")
        process.stdout.close()
        self.assert_ended(process, 1)

    def test_goodbye_not_sent(self):
        """Who has gone while the goodbye waited to be sent was cut off."""
        process = self.start(stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self.begun(process)
        process.stdin.write(b"QUIT\r\n")
        # All but the end of the message is read, and the rest waits in the process.
        left = naive_octets(LARGE)
        while left > 200_000:
            left -= len(os.read(process.stdout.fileno(), 50_000))
        process.stdin.close()
        process.stdout.close()
        self.assert_ended(process, 1)

    def test_killed(self):
        """A message that is cut off never ends as a whole one does, and the lock is free."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            process = self.start(stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
            self.begun(process)
            process.send_signal(number)
            rest = process.stdout.read()
            self.assertFalse(rest.endswith(b"\r\n.\r\n"))
            self.assertLess(len(rest), MB)
            process.wait(PATIENCE)
            self.assertFalse(is_locked(self.maildir))

    def test_nobody_reads(self):
        """A client that reads no more is waited for no longer than any that says nothing."""
        process = self.start(
            *("--timeout", "1"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self.begun(process)
        self.assert_ended(process, 1)


class TerminalTests(SessionCase):
    """A terminal: a login shell, a serial line."""

    def open(self, *options, raw=True):
        """Start one on a terminal of its own; return the process and our end."""
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

    def heard(self, ours, end):
        """Read until it ends so."""
        text = b""
        while not text.endswith(end):
            if not select.select([ours], [], [], PATIENCE)[0]:
                raise AssertionError(f"waited in vain for {end!r} after {text!r}")
            text += os.read(ours, 1000)
        return text

    def test_program(self):
        """On a line without echo and the like every octet is as on a socket."""
        process, ours = self.open()
        self.addCleanup(os.close, ours)
        self.assertEqual(self.heard(ours, b"\r\n"), GREETING + b"\r\n")
        os.write(ours, b"RETR 2\r\n")
        self.assertEqual(
            self.heard(ours, b"\r\n.\r\n"),
            b"+OK 22 octets\r\nSubject: two\r\n\r\n..\r\n2\r\n.\r\n",
        )
        os.write(ours, b"QUIT\r\n")
        self.heard(ours, b"(2 messages left)\r\n")
        self.assert_ended(process, 0)
        self.assertTrue(os.get_blocking(self.shared))

    def test_master(self):
        """Whose input is the master's side serves who is at the other side."""
        ours, theirs = os.openpty()
        self.addCleanup(os.close, theirs)
        tty.setraw(theirs)
        process = self.start(stdin=ours, stdout=ours)
        os.close(ours)
        self.assertEqual(self.heard(theirs, b"\r\n"), GREETING + b"\r\n")
        os.write(theirs, b"QUIT\r\n")
        self.heard(theirs, b"(2 messages left)\r\n")
        self.assert_ended(process, 0)

    def test_person(self):
        """At a terminal as shells have it people type, see what they type, and end with ^D."""
        process, ours = self.open(raw=False)
        self.addCleanup(os.close, ours)
        self.heard(ours, b"octets)\r\r\n")
        os.write(ours, b"STAT\r")
        self.heard(ours, b"+OK 2 41\r\r\n")
        os.write(ours, b"\x04")
        self.assert_ended(process, 0)

    def test_hang_up(self):
        """A line that hangs up ends the session without UPDATE."""
        process, ours = self.open()
        self.heard(ours, b"\r\n")
        os.write(ours, b"DELE 1\r\n")
        self.heard(ours, b"deleted\r\n")
        os.close(ours)
        self.assert_ended(process, 1)
        self.assertEqual(stored(self.maildir), SMALL)

    def test_interrupt(self):
        """^C does as well."""
        process, ours = self.open(raw=False)
        self.addCleanup(os.close, ours)
        self.heard(ours, b"\r\r\n")
        os.write(ours, b"DELE 1\r")
        self.heard(ours, b"deleted\r\r\n")
        os.write(ours, b"\x03")
        self.assert_ended(process, 1)
        self.assertEqual(stored(self.maildir), SMALL)

    def test_wrong_command(self):
        """Who types a wrong command line at a terminal is told there."""
        process, ours = self.open("--frob")
        self.addCleanup(os.close, ours)
        self.assertIn(b"--frob not recognized", self.heard(ours, b"\n"))
        self.assert_ended(process, 2)


class InetdTests(SessionCase):
    """One socket is standard input, output and error."""

    @contextmanager
    def listening(self, *options, login=True, family=socket.AF_INET):
        """Be inetd for one client; yield its address, and later the process."""
        where = "127.0.0.1" if family == socket.AF_INET else "::1"
        with socket.create_server((where, 0), family=family) as server:
            client = socket.create_connection(server.getsockname()[:2])
            accepted, _ = server.accept()
        with accepted:
            process = self.start(
                *options, login=login, stdin=accepted, stdout=accepted, stderr=accepted
            )
        client.settimeout(PATIENCE)
        with client, client.makefile("rwb", 0) as file:
            yield process, client, file

    def say(self, file, line):
        """Say a line and return the next one."""
        file.write(line + b"\r\n")
        return file.readline()

    def test_login(self):
        """The session is as on a port, its warnings are not the client's, and its end is seen."""
        for family in (socket.AF_INET, socket.AF_INET6):
            with self.listening("--timeout", "300", family=family) as (process, client, file):
                self.assertEqual(file.readline(), b"+OK POP3 server ready\r\n")
                self.assertEqual(self.say(file, b"USER ann")[:3], b"+OK")
                self.assertEqual(self.say(file, b"PASS secret")[:3], b"+OK")
                self.assertEqual(self.say(file, b"STAT"), b"+OK 2 41\r\n")
                self.assertEqual(self.say(file, b"QUIT")[:3], b"+OK")
                self.assertEqual(client.recv(10), b"")
                self.assert_ended(process, 0)

    def test_user(self):
        """On a socket, too, a session can begin at once."""
        with self.listening(login=False) as (process, client, file):
            self.assertEqual(file.readline(), GREETING + b"\r\n")
            client.shutdown(socket.SHUT_WR)
            self.assertEqual(file.readline(), b"")
            self.assert_ended(process, 0)

    def test_half_close(self):
        """A client that has said all gets its answers (a half-closed connection)."""
        with self.listening() as (process, client, file):
            client.sendall(b"USER ann\r\nPASS secret\r\nDELE 1\r\nSTAT\r\n")
            client.shutdown(socket.SHUT_WR)
            self.assertEqual(file.read().split(b"\r\n")[-2], b"+OK 1 22")
            self.assert_ended(process, 0)
        self.assertEqual(stored(self.maildir), SMALL)

    def test_reset(self):
        """A client that breaks the connection leaves nothing behind."""
        with self.listening(login=False) as (process, client, file):
            file.readline()
            self.say(file, b"DELE 1")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            file.close()
            client.close()
            self.assert_ended(process, 1)
        self.assertEqual(stored(self.maildir), SMALL)

    def test_syslog(self):
        """The log of everything goes to the system's, and nothing of it to the client."""
        with self.listening("--syslog", "--timeout", "60") as (process, _, file):
            file.write(b"USER ann\r\nPASS secret\r\nQUIT\r\n")
            lines = file.read().split(b"\r\n")
            self.assertEqual([line[:4] for line in lines], [b"+OK "] * 4 + [b""])
            self.assert_ended(process, 0)

    def test_guesses(self):
        """The third failed login ends the connection."""
        with self.listening() as (process, _, file):
            file.readline()
            self.say(file, b"USER ann\r\nPASS a\r\nUSER ann\r\nPASS b\r\nUSER ann\r\nPASS c")
            self.assertEqual(file.read().count(b"[AUTH]"), 3)
            self.assert_ended(process, 1)

    @contextmanager
    def over_tls(self):
        """Have a session over TLS by STLS; yield the process, and the client's socket."""
        authority = make_authority()
        certificate = self.errors.parent / "pop.pem"
        certificate.write_bytes(issue("localhost", issuer=authority).pem())
        context = ssl.create_default_context(cadata=authority.certificate_pem().decode())
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        options = ("--certificate", str(certificate), "--require-tls")
        with self.listening(*options) as (process, client, file):
            file.readline()
            self.assertEqual(self.say(file, b"USER ann")[:4], b"-ERR")
            self.assertEqual(self.say(file, b"STLS")[:3], b"+OK")
            over_tls = context.wrap_socket(client, server_hostname="localhost")
            with over_tls:
                yield process, over_tls

    def test_stls(self):
        """STLS works, and wants nothing of the operator but a certificate."""
        with self.over_tls() as (process, secret):
            with secret, secret.makefile("rwb", 0) as file:
                self.say(file, b"USER ann")
                self.assertEqual(self.say(file, b"PASS secret")[:3], b"+OK")
                self.assertEqual(self.say(file, b"QUIT")[:3], b"+OK")
            self.assert_ended(process, 0)

    def test_tls_closed(self):
        """A client that closes TLS in order has closed in order."""
        with self.over_tls() as (process, secret):
            secret.unwrap().close()
            self.assert_ended(process, 0)

    def test_wrong_command(self):
        """What is wrong with the command line is not the client's to read."""
        with self.listening("--frob") as (process, _, file):
            self.assertEqual(file.read(), b"")
            self.assert_ended(process, 2)

    def test_wait(self):
        """A socket that listens is no client."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            done = self.session(stdin=server)
        self.assertEqual((done.returncode, done.stdout), (1, b""))
        self.assertIn(b"(in inetd.conf, give nowait)", done.stderr)

    def test_real_one(self):
        """Systemd's own starts it for each connection."""
        program = "systemd-socket-activate"
        need(self, program)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        command = [program, "--accept", "--inetd", f"--listen=127.0.0.1:{port}"]
        with self.errors.open("wb") as errors:
            process = subprocess.Popen(
                [*command, *self.command(login=True)], stdout=errors, stderr=errors
            )
        self.addCleanup(self.end, process)
        until(lambda: "Listening on" in self.errors.read_text(), "the port")
        for left in (2, 1):
            client = poplib.POP3("127.0.0.1", port, timeout=PATIENCE)
            client.user("ann")
            client.pass_("secret")
            self.assertEqual(client.stat()[0], left)
            client.dele(1)
            client.quit()
        self.assertEqual(stored(self.maildir), [])


class SocketPairTests(SessionCase):
    """One UNIX socket is both, as sshd and fetchmail give it."""

    def test_fetchmail(self):
        """Fetchmail's plugin with auth ssh fetches all, and empties the maildrop."""
        plugin = " ".join(self.command())
        fetchmail = Fetchmail(
            self, f'proto pop3 auth ssh bad-header accept plugin "{plugin}" user ann sslproto ""'
        )
        fetchmail.fetch("--nokeep", "--fetchall")
        self.assertEqual(fetchmail.got(), SMALL)
        self.assertEqual(stored(self.maildir), [])

    def test_password(self):
        """A password can be given there, for nobody can read along."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = self.start(login=True, stdin=theirs, stdout=theirs)
        ours.settimeout(PATIENCE)
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
    said = [b"QUIT\\r\\n", b"STAT\\r\\n"]
    with client.makefile("rb") as file:
        for line in file:
            sys.stdout.buffer.write(line)
            if line.startswith(b"+OK") and said:
                client.sendall(said.pop())
"""


class PreauthSocketTests(SessionCase):
    """``twistd pop3 --preauth``: the system says who is at the other end."""

    def setUp(self):
        """Give two of the system's users mail."""
        super().setUp()
        if not IS_ROOT:
            self.skipTest("only root can become another user")
        self.users = [pwd.getpwnam(name) for name in ("daemon", "nobody")]
        for count, user in enumerate(self.users, 1):
            deliver(self.root / user.pw_name, SMALL[:count])
        self.path = temporary_directory(self) / "pop3.sock"

    def said_to(self, uid):
        """Return what a client of that user is told."""
        command = [sys.executable, "-c", _AS_USER, str(uid), str(self.path)]
        # A home of root's that others cannot enter would not let them run this Python.
        options = {"capture_output": True, "timeout": PATIENCE, "check": True}
        return subprocess.run(command, **options).stdout.split(b"\r\n")

    def assert_served(self, server):
        """Two users have their own mail, and one that is no user is refused."""
        for count, user in enumerate(self.users, 1):
            lines = self.said_to(user.pw_uid)
            self.assertEqual(
                lines[0].partition(b" (")[0],
                b"+OK POP3 server ready, %b's maildrop has %d message%b"
                % (user.pw_name.encode(), count, b"s"[: count - 1]),
            )
            self.assertEqual(lines[1][:6], b"+OK %d " % count)
        lines = self.said_to(UNKNOWN_UID)
        self.assertEqual(lines, [b"-ERR [AUTH] you are not a user of this system", b""])
        until(lambda: f"uid {UNKNOWN_UID} has no name" in server.log, "the log")

    def test_beside_others(self):
        """It works beside a port that wants passwords."""
        server = Server("--preauth", f"unix:{self.path}:mode=666", root=self.root)
        self.addCleanup(server.stop)
        self.assert_served(server)
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o666)
        server.login("ann").close()
        server.stop()
        self.assertFalse(self.path.exists())

    def test_workers(self):
        """And so it does with several processes."""
        server = Server(
            *("--listen", LOOPBACK, "--preauth", f"unix:{self.path}:mode=666", "--workers", "2"),
            root=self.root,
        )
        self.addCleanup(server.stop)
        for _ in range(3):
            self.assert_served(server)
        server.login("ann").close()

    def test_alone(self):
        """Alone it opens no port."""
        plugin = ["pop3", "--maildir", self.root, "--preauth", f"unix:{self.path}"]
        with self.errors.open("wb") as log:
            process = subprocess.Popen(
                [BIN / "twistd", "--nodaemon", "--pidfile=", *plugin],
                stdout=log,
                stderr=log,
                cwd=self.errors.parent,
            )
        self.addCleanup(self.end, process)
        until(self.path.exists, "the socket")
        connection = Connection(str(self.path))
        self.addCleanup(connection.abandon)
        self.assertEqual(connection.greeting[:35], b"+OK POP3 server ready, root's maild")
        self.assertNotIn("starting on 110", self.errors.read_text())
