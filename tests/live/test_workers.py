"""``twistd pop3 --workers``: several processes as one server, and what becomes of them."""

import os
import pwd
import re
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import TestCase

from popserv.auth.passwords.users_file import set_secret
from tests.certificates import issue, make_authority
from tests.live.harness import (
    BIN,
    LOOPBACK,
    PATIENCE,
    Connection,
    Server,
    deliver,
    run,
    temporary_directory,
    until,
)

IS_ROOT = os.geteuid() == 0
CA = make_authority()
SERVER = issue("localhost", issuer=CA)


def is_there(pid):
    """Return whether a process runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def sockets(pid):
    """Return how many sockets a process has open."""
    found = 0
    for each in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found += str(each.readlink()).startswith("socket:")
        except OSError:
            continue
    return found


class WorkersCase(TestCase):
    """Servers of several workers, each ended with its test."""

    def setUp(self):
        """Skip where there is no /proc to look into."""
        if not Path("/proc/self/fd").exists():
            self.skipTest("no /proc here")

    def root(self):
        """Return a new root with one user, who has one message."""
        root = temporary_directory(self)
        set_secret(str(root / ".users"), b"joe", b"{PLAIN}secret", new=True)
        deliver(root / "joe", [b"x\n"])
        return root

    def start(self, *options, workers=2, **more):
        """Start a server, which listens in all its workers."""
        more.setdefault("root", self.root())
        server = Server("--workers", str(workers), *options, **more)
        self.addCleanup(server.stop)
        self.await_workers(server, workers)
        return server

    def await_workers(self, server, number):
        """Wait until so many processes have begun to listen, ever."""
        until(
            lambda: len(re.findall(r"\[worker \d+: .*starting on", server.log)) >= number,
            "the workers",
        )

    def pids(self, server):
        """Return the processes of each worker, the last one last."""
        found = {}
        for number, pid in re.findall(r"worker (\d+) started, pid (\d+)\n", server.log):
            found.setdefault(int(number), []).append(int(pid))
        return found

    def newest(self, server):
        """Return the process of each worker now."""
        return [pids[-1] for _, pids in sorted(self.pids(server).items())]

    def assert_serves(self, connection):
        """Log in, read the message and QUIT."""
        self.assertStartsWith(connection.greeting, b"+OK")
        self.assertStartsWith(connection.ask(b"USER joe"), b"+OK")
        self.assertEqual(
            connection.ask(b"PASS secret"),
            b"+OK joe's maildrop has 1 message (3 octets)",
        )
        self.assertStartsWith(connection.ask(b"RETR 1"), b"+OK")
        self.assertEqual(connection.lines(), [b"x"])
        self.assertStartsWith(connection.close(), b"+OK")

    def assertStartsWith(self, text, start):
        """Compare the beginning."""
        self.assertEqual(text[: len(start)], start)


class SharingTests(WorkersCase):
    """Several workers are one server."""

    def test_even(self):
        """Connections are shared out, to each worker about as many."""
        for workers in (2, 3):
            server = self.start(workers=workers, twistd=("--reactor=poll",))
            self.assert_serves(server.connect())
            before = [sockets(pid) for pid in self.newest(server)]
            connections = [server.connect() for _ in range(400)]
            after = [sockets(pid) for pid in self.newest(server)]
            for connection in connections:
                connection.abandon()
            shares = [now - then for now, then in zip(after, before, strict=True)]
            self.assertTrue(395 <= sum(shares) <= 400, shares)
            self.assertGreater(min(shares), 400 // workers // 2, shares)

    def test_lock(self):
        """A maildrop that is open in one worker is in use in all."""
        server = self.start()
        session = server.login("joe")
        for _ in range(20):
            other = server.connect()
            other.ask(b"USER joe")
            self.assertStartsWith(other.ask(b"PASS secret"), b"-ERR [IN-USE]")
            other.close()
        session.close()

    def test_login_delay(self):
        """Who has logged in by one worker waits at all."""
        server = self.start("--login-delay", "900")
        server.login("joe").close()

        def refused():
            connection = server.connect()
            connection.ask(b"USER joe")
            reply = connection.ask(b"PASS secret")
            connection.close()
            return reply.startswith(b"-ERR [LOGIN-DELAY]")

        # Once the others have been told; a worker that starts later is told, too.
        until(lambda: all(refused() for _ in range(20)), "the others to be told")
        os.kill(self.newest(server)[0], signal.SIGKILL)
        self.await_workers(server, 3)
        until(lambda: all(refused() for _ in range(20)), "the new one to be told")

    def test_penalties(self):
        """Failed logins of one address count together, whichever workers they meet."""
        server = self.start(*("--listen", f"haproxy:{LOOPBACK}", "--allow-plaintext"), workers=6)
        late = "192.0.2.9: repeated login failures, replies are delayed"
        for attempt in range(1, 8):
            connection = server.connect()
            self.addCleanup(connection.abandon)
            connection.socket.sendall(
                b"PROXY TCP4 192.0.2.9 203.0.113.1 4711 110\r\nUSER joe\r\nPASS %d\r\n" % attempt
            )
            until(
                lambda wanted=attempt: server.log.count("was refused with") >= wanted, "a refusal"
            )
            if late in server.log:
                break
        # By itself hardly any of six workers sees four of these.
        self.assertIn(late, server.log)

    def test_max_connections(self):
        """--max-connections is the sum of what the workers take."""
        server = self.start("--max-connections", "5")
        before = [sockets(pid) for pid in self.newest(server)]
        connections = [server.connect() for _ in range(60)]
        until(
            lambda: sum(map(sockets, self.newest(server))) - sum(before) <= 5, "the surplus to go"
        )
        for connection in connections:
            connection.abandon()

    def test_workers_auto(self):
        """--workers auto is one for each core that may be used; one needs no supervisor."""
        cores = len(os.sched_getaffinity(0))
        server = Server("--workers", "auto", root=self.root())
        self.addCleanup(server.stop)
        if cores > 1:
            self.await_workers(server, cores)
        self.assertEqual(len(self.pids(server)), cores if cores > 1 else 0)

    def test_one(self):
        """One worker is the process itself."""
        server = Server("--workers", "1", root=self.root())
        self.addCleanup(server.stop)
        self.assert_serves(server.connect())
        self.assertNotIn("worker 1", server.log)


class EndpointTests(WorkersCase):
    """Whatever can be listened on can be shared."""

    def test_unix(self):
        """A UNIX socket keeps its mode, survives a worker, and goes with the server."""
        root = self.root()
        path = root / "socket"
        server = self.start("--listen", LOOPBACK, "--listen", f"unix:{path}:mode=600", root=root)
        self.assert_serves(Connection(str(path)))
        os.kill(self.newest(server)[0], signal.SIGTERM)
        self.await_workers(server, 3)
        for _ in range(10):
            self.assert_serves(Connection(str(path)))
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        self.assertEqual(server.stop(), -signal.SIGTERM)
        self.assertFalse(path.exists())
        self.assertNotIn("Traceback", server.log)

    def test_tls(self):
        """TLS from the first octet, by STLS, by Twisted's own endpoint, behind a proxy."""
        root = self.root()
        (root / "pop.pem").write_bytes(SERVER.pem())
        (root / "ca.pem").write_bytes(CA.certificate_pem())
        context = ssl.create_default_context(cafile=root / "ca.pem")
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # the test's CA has not all that is usual
        server = self.start(
            *("--certificate", root / "pop.pem", "--listen-tls", LOOPBACK),
            *("--listen", LOOPBACK),
            *("--listen", f"ssl:0:interface=127.0.0.1:privateKey={root}/pop.pem"),
            *("--listen-tls", f"haproxy:{LOOPBACK}", "--listen", f"haproxy:{LOOPBACK}"),
            root=root,
        )
        plain, own, plain_proxied, tls, tls_proxied = server.ports[:5]

        def wrap(bare):
            return context.wrap_socket(bare, server_hostname="localhost")

        def proxied(bare):
            bare.sendall(b"PROXY TCP4 127.0.0.1 127.0.0.1 4711 995\r\n")
            return bare

        for port, wrapped in (
            (tls, wrap),
            (own, wrap),
            (plain_proxied, proxied),
            (tls_proxied, lambda bare: wrap(proxied(bare))),
        ):
            for _ in range(4):
                self.assert_serves(Connection(("127.0.0.1", port), wrap=wrapped))
        for _ in range(4):
            connection = Connection(("127.0.0.1", plain))
            self.assertStartsWith(connection.ask(b"STLS"), b"+OK")
            connection.file.close()
            connection.socket = wrap(connection.socket)
            connection.file = connection.socket.makefile("rb")
            self.assert_serves(connection)

    def test_ipv6(self):
        """An address of IPv6 is shared as well."""
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError:
            self.skipTest("no IPv6 here")
        server = self.start("--listen", LOOPBACK, "--listen", r"tcp6:0:interface=\:\:1")
        for _ in range(10):
            connection = socket.create_connection(("::1", server.ports[1]), PATIENCE)
            self.addCleanup(connection.close)
            self.assertStartsWith(connection.recv(100), b"+OK")

    def test_systemd(self):
        """Sockets that systemd has opened are shared by their names or numbers."""
        root = self.root()
        listening = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        log = root / "log"
        script = (
            'exec 3<&"$1" 4<&"$2" && shift 2 && '
            'LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=first:second exec "$@"'
        )
        command = [BIN / "twistd", "--nodaemon", "--pidfile=", "pop3", "--maildir", root]
        command += ["--workers", "2", "--listen", "systemd:domain=INET:index=1"]
        command += ["--listen", "systemd:domain=INET:name=first"]
        numbers = [each.fileno() for each in listening]
        with log.open("wb") as output:
            server = subprocess.Popen(
                ["/bin/bash", "-c", script, "sh", *map(str, (*numbers, *command))],
                pass_fds=numbers,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.addCleanup(server.wait, PATIENCE)
        self.addCleanup(server.terminate)
        for each in listening * 4:
            self.assert_serves(Connection(each.getsockname()))
        server.terminate()
        self.assertEqual(server.wait(PATIENCE), -signal.SIGTERM, log.read_text())
        self.assertNotIn("Traceback", log.read_text())
        for each in listening:
            each.close()

    def test_nothing_to_share(self):
        """An endpoint that opens no socket ends the server with what would do."""
        done = run(
            *("twistd", "-n", "--pidfile=", "pop3", "--maildir", self.root()),
            *("--workers=2", "--listen=stdio:"),
        )
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"omit --workers", done.stdout + done.stderr)


class EndingTests(WorkersCase):
    """Workers that die, and how it all ends."""

    def test_killed_worker(self):
        """One that dies is started again at once; nobody else notices, nobody is refused."""
        server = self.start()
        before = self.newest(server)
        connections = [server.connect() for _ in range(40)]
        os.kill(before[0], signal.SIGKILL)
        new = [server.connect() for _ in range(40)]
        for connection in new:
            self.assertStartsWith(connection.ask(b"NOOP"), b"-ERR")
            self.assertStartsWith(connection.close(), b"+OK")
        self.await_workers(server, 3)
        after = self.newest(server)
        self.assertNotEqual(after[0], before[0])
        self.assertEqual(after[1], before[1])
        alive = [each for each in connections if self.answers(each)]
        self.assertGreater(len(alive), 5)
        self.assertIn("worker 1 exited with signal 9; restarting at once", server.log)

    def answers(self, connection):
        """Return whether there is still somebody; in any case QUIT."""
        try:
            return connection.close().startswith(b"+OK")
        except OSError:
            connection.abandon()
            return False

    def test_dying_worker(self):
        """One that keeps dying waits ever longer, and gets no clients meanwhile."""
        server = self.start()
        for time_, told in enumerate(("at once", "in 1 s", "in 2 s"), 3):
            os.kill(self.newest(server)[0], signal.SIGKILL)
            until(lambda told=told: f"restarting {told}\n" in server.log, "the log")
            for _ in range(50):
                self.assertStartsWith(server.connect().close(), b"+OK")
            self.await_workers(server, time_)
        for _ in range(20):
            self.assertStartsWith(server.connect().close(), b"+OK")

    def test_sigterm(self):
        """SIGTERM and SIGINT end all, cleanly; sessions are told of in the log."""
        for number in (signal.SIGTERM, signal.SIGINT):
            server = self.start()
            sessions = [server.login("joe"), *(server.connect() for _ in range(10))]
            pids = self.newest(server)
            self.assertEqual(server.stop(number), -number)
            self.assertEqual([pid for pid in pids if is_there(pid)], [])
            self.assertEqual([session.rest() for session in sessions], [b""] * 11)
            self.assertIn("session of b'joe' ended, 0 removed, 1 left", server.log)
            self.assertIn("Server Shut Down", server.log)
            self.assertNotIn("Traceback", server.log)
            self.assertNotIn("restarting", server.log)
            for session in sessions:
                session.abandon()

    def test_sigterm_to_all(self):
        """If a service manager sends SIGTERM to all at once, it ends as cleanly."""
        server = self.start()
        for pid in (server.process.pid, *self.newest(server)):
            os.kill(pid, signal.SIGTERM)
        self.assertEqual(server.process.wait(PATIENCE), -signal.SIGTERM)
        self.assertNotIn("Traceback", server.log)
        self.assertNotIn("restarting", server.log)

    def test_killed_supervisor(self):
        """When the supervisor is killed, its workers end."""
        server = self.start()
        pids = self.newest(server)
        session = server.login("joe")
        server.stop(signal.SIGKILL)
        until(lambda: not any(map(is_there, pids)), "the workers to end")
        self.assertEqual(session.rest(), b"")
        session.abandon()

    def test_stuck_supervisor(self):
        """A supervisor that stands still stops nobody, and loses no log of the usual size."""
        server = self.start()
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            for _ in range(500):
                server.login("joe").close()
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        until(lambda: server.log.count("session of b'joe' ended") == 500, "the log")


class StartingTests(WorkersCase):
    """How it starts, and how not."""

    def failed(self, *options, twistd=()):
        """Return the last line of a server that must not start."""
        done = run(
            *("twistd", "--nodaemon", "--pidfile=", *twistd, "pop3"),
            *options,
        )
        said = (done.stdout + done.stderr).decode()
        self.assertEqual(done.returncode, 1, said)
        self.assertNotIn("Traceback", said)
        return re.sub(r"^.*\[stderr#error\] ", "", said.splitlines()[-1])

    def test_port_taken(self):
        """A port that is taken is told of as with one process, also if it could be shared."""
        root = self.root()
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            listen = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
            said = [
                self.failed("--maildir", root, "--listen", listen, "--workers", workers)
                for workers in ("1", "2")
            ]
        self.assertEqual(said[0], said[1])
        self.assertIn("Is another server listening there?", said[0])

    def test_two_servers(self):
        """Two servers cannot share a port without knowing."""
        server = self.start()
        said = self.failed(
            *("--maildir", self.root(), "--workers", "2"),
            *("--listen", f"tcp:{server.port}:interface=127.0.0.1"),
        )
        self.assertIn("Is another server listening there?", said)

    def test_user(self):
        """Started as root it binds, and the workers are the user that --uid names."""
        root = self.root()
        if not self.give_to_nobody(root):
            self.skipTest("nobody cannot run this Python")
        server = self.start(
            *("--listen", "tcp:0:interface=127.0.0.1", "--listen", f"unix:{root}/socket"),
            root=root,
            twistd=self.as_nobody(),
        )
        for _ in range(4):
            self.assert_serves(server.connect())
            self.assert_serves(Connection(f"{root}/socket"))
        uid = str(pwd.getpwnam("nobody").pw_uid)
        for pid in self.newest(server):
            status = Path(f"/proc/{pid}/status").read_text()
            self.assertEqual(re.search(r"Uid:(.*)", status)[1].split(), [uid] * 4)

    def give_to_nobody(self, root):
        """Let nobody have all this; return whether nobody can run this Python."""
        if not IS_ROOT:
            self.skipTest("only root can become another user")
        nobody = pwd.getpwnam("nobody")
        for path in (root, *root.rglob("*")):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
        command = [sys.executable, "-c", "import popserv"]
        try:
            subprocess.run(command, user="nobody", extra_groups=[], cwd="/", check=True)
        except (PermissionError, subprocess.CalledProcessError):
            return False
        return True

    def as_nobody(self):
        """Return twistd's options."""
        nobody = pwd.getpwnam("nobody")
        return f"--uid={nobody.pw_uid}", f"--gid={nobody.pw_gid}"

    def test_not_for_the_user(self):
        """What the user cannot read ends the server in one line, not in restarts."""
        root = self.root()
        can_run = self.give_to_nobody(root)
        pem = temporary_directory(self) / "pop.pem"
        pem.write_bytes(SERVER.pem())
        pem.chmod(0o600)
        said = self.failed(
            *("--maildir", root, "--workers", "2", "--certificate", pem, "--listen", LOOPBACK),
            twistd=self.as_nobody(),
        )
        if can_run:
            self.assertStartsWith(said, f"popserv: {pem}: ")
            self.assertIn("--certificate", said)
        else:
            self.assertIn("must be able to run Python", said)

    def test_daemon(self):
        """As a daemon elsewhere it finds what was named from where it was started."""
        root = self.root()
        elsewhere = temporary_directory(self)
        log = elsewhere / "log"
        files = (f"--pidfile={root}/pid", f"--logfile={log}", f"--rundir={elsewhere}")
        done = run(
            *("twistd", *files, "pop3", "--maildir", root.name, "--workers", "2"),
            *("--listen", LOOPBACK, "--listen", "unix:socket"),
            cwd=root.parent,
        )
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, b"", b""))
        pid = int((root / "pid").read_text())
        try:
            port = int(re.search(r"starting on (\d+)\n", log.read_text())[1])
            for _ in range(6):
                self.assert_serves(Connection(("127.0.0.1", port)))
                self.assert_serves(Connection(str(elsewhere / "socket")))
            until(lambda: log.read_text().count("session of b'joe' ended") == 12, "the log")
            self.assertRegex(
                log.read_text(), r"\[worker 1: popserv.server.protocol.POP3Server#info\]"
            )
        finally:
            os.kill(pid, signal.SIGTERM)
        until(lambda: not (root / "pid").exists(), "the pidfile to go")
        until(lambda: not is_there(pid), "the server to end")
        self.assertIn("Server Shut Down", log.read_text())
