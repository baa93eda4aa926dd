"""popserv session, as ssh, inetd, a shell and fetchmail run it."""

import os
import pty
import signal
import socket
import subprocess
import sys
import tty
from contextlib import closing

from twisted.trial.unittest import TestCase

from tests.certificates import issue
from tests.live.harness import (
    BIN,
    CHECKOUT,
    PATIENCE,
    SAMPLES,
    Fetchmail,
    Server,
    ServerTestCase,
    deliver,
    run,
    stored,
    temporary_directory,
    until,
    wire_form,
)

MESSAGES = SAMPLES[:3]
MEASURED = (
    *(sys.executable, "-m", "coverage", "run", f"--rcfile={CHECKOUT}/pyproject.toml"),
    *("--parallel-mode", f"--data-file={CHECKOUT}/.coverage"),
)
if "coverage" not in sys.modules:
    MEASURED = ()

WELCOME = b"+OK POP3 server ready, %b's maildrop has 3 messages ("


class SessionTests(ServerTestCase):
    """Sessions on a root that a server serves, too."""

    def setUp(self):
        """A user who has three messages."""
        self.name, self.maildir = self.server.add_user(MESSAGES)
        self.welcome = WELCOME % self.name.encode()

    def command(self, *options):
        """The command line of a session of the user's."""
        options = options or ("--user", self.name)
        root = str(self.server.root)
        return [*MEASURED, str(BIN / "popserv"), "session", "--maildir", root, *options]

    def said(self, text, *options, **more):
        """Have a session that gets this input; return its exit code and what it has said."""
        done = subprocess.run(
            self.command(*options),
            input=text,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
            **more,
        )
        self.errors = done.stderr
        return done.returncode, done.stdout.split(b"\r\n")[:-1]

    def start(self, *options, **streams):
        """Start a session; it is killed at the end, if it is still there."""
        process = subprocess.Popen(self.command(*options), **streams)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                self.addCleanup(stream.close)
        return process

    def piped(self, *options):
        """Start one on pipes; return it when it has greeted."""
        process = self.start(*options, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.greeting = process.stdout.readline()
        return process

    def test_pipes(self):
        """The greeting, TRANSACTION at once, and what is marked is removed at QUIT."""
        code, said = self.said(b"STAT\r\nUSER x\r\nDELE 2\nQUIT\r\n")
        self.assertEqual(code, 0, self.errors)
        self.assertTrue(said[0].startswith(self.welcome), said)
        self.assertRegex(said[1], rb"\+OK 3 \d+")
        self.assertEqual(said[2:4], [b"-ERR already logged in", b"+OK message 2 deleted"])
        self.assertEqual(stored(self.maildir), [MESSAGES[0], MESSAGES[2]])
        self.assertEqual(self.errors, b"")

    def test_end_of_input(self):
        """What was said before the input ends is answered, and nothing is removed."""
        code, said = self.said(b"DELE 1\r\nRETR 1\r\nRETR 2\r\n")
        self.assertEqual((code, len(stored(self.maildir))), (0, 3))
        self.assertEqual(b"\r\n".join(said).count(b"+OK"), 3)
        self.assertIn(b"-ERR message 1 already deleted", said)
        self.assertEqual(said[-1], b".")

    def test_file(self):
        """Standard input may be a file."""
        script = self.server.root.parent / f"{self.name}.script"
        script.write_bytes(b"RETR 1\r\nQUIT\r\n")
        self.addCleanup(script.unlink)
        with script.open("rb") as file:
            done = subprocess.run(
                self.command(), stdin=file, capture_output=True, timeout=PATIENCE, check=False
            )
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(wire_form(MESSAGES[0]), done.stdout)

    def test_login(self):
        """With --login a client logs in first, in the dialect that was given."""
        text = b"STAT\r\nCAPA\r\nUSER %b\r\nPASS secret\r\nLAST\r\nQUIT\r\n" % self.name.encode()
        code, said = self.said(text, "--login", "--dialect", "rfc1460", "-t", "60")
        self.assertEqual(code, 0, self.errors)
        self.assertEqual(
            said[:3], [b"+OK POP3 server ready", b"-ERR log in first", b"-ERR unknown command"]
        )
        self.assertEqual(said[5], b"+OK 0")
        self.assertIn(b"RFC 1725 section 3 wants 600", self.errors)

    def test_lock(self):
        """The maildrop's lock holds against a server's session, and the other way round."""
        client = self.server.login(self.name)
        self.addCleanup(client.abandon)
        code, said = self.said(b"STAT\r\nQUIT\r\n")
        self.assertEqual((code, said), (1, [b"-ERR [IN-USE] maildrop already locked"]))
        client.close()
        session = self.piped()
        other = self.server.connect()
        self.addCleanup(other.abandon)
        other.ask(b"USER " + self.name.encode())
        self.assertEqual(other.ask(b"PASS secret"), b"-ERR [IN-USE] maildrop already locked")
        session.kill()
        session.wait()
        other.ask(b"USER " + self.name.encode())
        self.assertTrue(other.ask(b"PASS secret").startswith(b"+OK"))

    def test_signals(self):
        """A signal ends a session without UPDATE, and gives the lock up."""
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            session = self.piped()
            self.assertTrue(self.greeting.startswith(self.welcome), self.greeting)
            session.stdin.write(b"DELE 1\r\n")
            session.stdin.flush()
            session.stdout.readline()
            session.send_signal(number)
            self.assertEqual(session.wait(PATIENCE), 1)
        self.assertEqual(stored(self.maildir), MESSAGES)

    def test_terminal(self):
        """On a terminal, whose mode is found again; a hang-up ends the session."""
        ours, theirs = pty.openpty()
        tty.setraw(theirs)
        session = self.start(stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL)
        os.write(ours, b"NOOP\nQUIT\n")
        session.wait(PATIENCE)
        self.assertEqual(session.returncode, 0)
        self.assertTrue(os.get_blocking(theirs))
        self.assertIn(b"+OK nothing done\r\n", os.read(ours, 4096))
        session = self.start(stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL)
        os.close(theirs)
        os.read(ours, 4096)
        os.close(ours)
        self.assertEqual(session.wait(PATIENCE), 1)

    def test_inetd(self):
        """A connection as descriptors 0, 1 and 2: nothing but the protocol is ever on it."""
        for options in ((), ("--login", "--syslog", "--timeout", "60")):
            with closing(socket.socket()) as listener:
                listener.bind(("127.0.0.1", 0))
                listener.listen()
                client = socket.create_connection(listener.getsockname(), PATIENCE)
                connection, _ = listener.accept()
            with client, connection:
                session = self.start(
                    *options, stdin=connection, stdout=connection, stderr=connection
                )
                connection.close()
                client.sendall(b"NOOP\r\nQUIT\r\n")
                with client.makefile("rb") as file:
                    said = file.read().split(b"\r\n")
            self.assertEqual(session.wait(PATIENCE), 0)
            self.assertEqual(len(said), 4, said)
            self.assertTrue(all(line[:1] in (b"+", b"-", b"") for line in said), said)

    def test_not_connected(self):
        """A socket that nobody is connected to, or no descriptor at all, is an error at once."""
        with closing(socket.socket()) as listener:
            listener.listen()
            done = subprocess.run(
                self.command(), stdin=listener, capture_output=True, timeout=PATIENCE, check=False
            )
        self.assertEqual((done.returncode, done.stdout), (1, b""))
        self.assertIn(b"nobody is connected", done.stderr)
        done = subprocess.run(
            ["sh", "-c", 'exec "$@" <&-', "sh", *self.command()],
            capture_output=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
        self.assertEqual((done.returncode, done.stdout), (1, b""))
        self.assertIn(b"descriptor 0 is closed", done.stderr)

    def test_usage(self):
        """A wrong command line is told in a line on standard error, and is 2."""
        pem = self.server.root.parent / f"{self.name}.pem"
        pem.write_bytes(issue("localhost").pem())
        self.addCleanup(pem.unlink)
        for options, told in (
            (("--login", "--user", "x"), b"give one of --user NAME"),
            (("-t", "9"), b"give one of --user NAME"),
            (("--user", "../x"), b"--user: "),
            (("--user", "x", "--require-tls"), b"--require-tls"),
            (("--user", "x", "--sasl", "PLAIN"), b"--sasl is for logins"),
            (("--user", "x", "--auth", "memory:a:b"), b"--auth is for logins"),
            (("--login", "--private-key", "x"), b"--private-key needs --certificate"),
            (("--login", "--require-tls"), b"--require-tls needs --certificate"),
            (("--login", "--certificate", str(pem)), b"only on a socket can TLS begin"),
        ):
            code, said = self.said(b"", *options)
            self.assertEqual((code, said), (2, []), options)
            self.assertIn(told, self.errors)
            self.assertEqual(self.errors.count(b"\n"), 1, self.errors)
        done = run("popserv", "session", "--help")
        self.assertIn(b"Exit codes", done.stdout)
        done = run("popserv", "--help")
        self.assertIn(b"session", done.stdout)

    def test_fetchmail(self):
        """Fetchmail's plugin, without a password."""
        command = " ".join(self.command("--user", self.name))
        poll = f'proto pop3 auth ssh plugin "{command}" user {self.name} sslproto ""'
        fetchmail = Fetchmail(self, poll)
        fetchmail.fetch("--nokeep", "--fetchall")
        self.assertEqual(fetchmail.got(), [wire_form(each, b"\n") for each in MESSAGES])
        self.assertEqual(stored(self.maildir), [])


class PreauthTests(TestCase):
    """UNIX sockets whose clients the system names."""

    def test_users(self):
        """Each client has its own user's maildrop; who has no name is refused."""
        if os.geteuid():
            self.skipTest("only root can be others")
        place = temporary_directory(self)
        path = place / "socket"
        server = Server(
            "--preauth", f"unix:{path}:mode=666", "--listen", "tcp:0:interface=127.0.0.1"
        )
        self.addCleanup(server.stop)
        deliver(server.root / "daemon", MESSAGES)
        deliver(server.root / "root", MESSAGES[:1])
        until(path.exists, "a socket")
        ask = (
            "import os, socket, sys; os.setuid(int(sys.argv[1]));"
            "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[2]);"
            "s.sendall(b'QUIT\\r\\n'); print(s.makefile().readline(), end='')"
        )
        python = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
        for uid, told in (
            (0, b"root's maildrop has 1 message"),
            (1, b"daemon's maildrop has 3"),
            (54321, b"-ERR "),
        ):
            done = subprocess.run(
                [python, "-c", ask, str(uid), str(path)],
                capture_output=True,
                timeout=PATIENCE,
                check=False,
            )
            self.assertIn(told, done.stdout, done.stderr)
