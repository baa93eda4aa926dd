"""``twistd pop3 --workers``: several processes that act as one server."""

import os
import pwd
import re
import signal
import socket
import ssl
import subprocess
import sys
from itertools import groupby
from pathlib import Path

from twisted.trial.unittest import TestCase

from popserv.auth.passwords.users_file_editing import set_secret
from tests.certificates import issue, make_authority
from tests.live.harness import (
    BIN,
    LOOPBACK,
    TIMEOUT,
    Connection,
    Poller,
    Server,
    deliver,
    run,
    temporary_directory,
    until,
)
from tests.transports.test_proxy_header import INET, TLS_12, binary

IS_ROOT = os.geteuid() == 0
CA = make_authority()
SERVER = issue("localhost", issuer=CA)


def state(pid):
    """Return the state of a process, such as R, T (stopped) or Z (zombie)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def is_running(pid):
    """Tell whether a process is running; a zombie is not."""
    try:
        return state(pid) != "Z"
    except OSError:
        return False


def count_sockets(pid):
    """Return the number of open sockets of a process."""
    sockets = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            sockets += str(entry.readlink()).startswith("socket:")
        except OSError:
            continue
    return sockets


class WorkersCase(TestCase):
    """Servers with several workers, each stopped after its test."""

    def setUp(self):
        """Skip the tests without /proc."""
        if not Path("/proc/self/fd").exists():
            self.skipTest("/proc is required")

    def root(self):
        """Return a mail directory with one user, who has one message."""
        root = temporary_directory(self)
        set_secret(str(root / ".users"), b"joe", b"{PLAIN}secret", new=True)
        deliver(root / "joe", [b"x\n"])
        return root

    def start(self, *options, workers=2, **keywords):
        """Start a server; wait until all its workers listen."""
        keywords.setdefault("root", self.root())
        server = Server("--workers", str(workers), *options, **keywords)
        self.addCleanup(server.stop)
        self.await_workers(server, workers)
        return server

    def await_workers(self, server, number):
        """Wait until this number of processes have started to listen since the start."""
        until(
            lambda: len(re.findall(r"\[worker \d+: .*starting on", server.log)) >= number,
            "the workers",
        )

    def pids(self, server):
        """Return the process IDs of each worker, the current one last."""
        pids = {}
        for number, pid in re.findall(r"worker (\d+) started, pid (\d+)\n", server.log):
            pids.setdefault(int(number), []).append(int(pid))
        return pids

    def current_pids(self, server):
        """Return the current process ID of each worker."""
        return [pids[-1] for _, pids in sorted(self.pids(server).items())]

    def assert_serves(self, connection):
        """Log in, read the message, and QUIT."""
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
        """Fail unless a text starts with a prefix."""
        self.assertEqual(text[: len(start)], start)


class SharingTests(WorkersCase):
    """Workers share connections, locks and limits."""

    def test_even(self):
        """Connections are distributed about evenly among the workers."""
        for workers in (2, 3):
            server = self.start(workers=workers, twistd=("--reactor=poll",))
            self.assert_serves(server.connect())
            before = [count_sockets(pid) for pid in self.current_pids(server)]
            connections = [server.connect() for _ in range(400)]
            after = [count_sockets(pid) for pid in self.current_pids(server)]
            for connection in connections:
                connection.abandon()
            counts = [now - then for now, then in zip(after, before, strict=True)]
            self.assertTrue(395 <= sum(counts) <= 400, counts)
            self.assertGreater(min(counts), 400 // workers // 2, counts)

    def test_lock(self):
        """A maildrop that is open in one worker is locked in all."""
        server = self.start()
        session = server.login("joe")
        for _ in range(20):
            other = server.connect()
            other.ask(b"USER joe")
            self.assertStartsWith(other.ask(b"PASS secret"), b"-ERR [IN-USE]")
            other.close()
        session.close()

    def test_login_delay(self):
        """--login-delay applies in all workers after a login in one of them."""
        server = self.start("--login-delay", "900")
        server.login("joe").close()

        def is_refused():
            connection = server.connect()
            connection.ask(b"USER joe")
            reply = connection.ask(b"PASS secret")
            connection.close()
            return reply.startswith(b"-ERR [LOGIN-DELAY]")

        # The update must reach the other workers, and a worker that starts later.
        until(lambda: all(is_refused() for _ in range(20)), "the update in the other workers")
        os.kill(self.current_pids(server)[0], signal.SIGKILL)
        self.await_workers(server, 3)
        until(lambda: all(is_refused() for _ in range(20)), "the update in the new worker")

    def test_penalties(self):
        """Failed logins of one address are counted across all workers."""
        server = self.start(*("--listen", f"haproxy:{LOOPBACK}", "--allow-plaintext"), workers=6)
        message = "192.0.2.9: repeated login failures, replies are delayed"
        for attempt in range(1, 8):
            connection = server.connect(header=b"PROXY TCP4 192.0.2.9 203.0.113.1 4711 110\r\n")
            self.addCleanup(connection.abandon)
            connection.socket.sendall(b"USER joe\r\nPASS %d\r\n" % attempt)
            until(lambda count=attempt: server.log.count("login of") >= count, "a refusal")
            if message in server.log:
                break
        # A single worker of the six rarely receives four of the logins.
        self.assertIn(message, server.log)

    def test_max_connections(self):
        """--max-connections is the sum of the workers' limits."""
        server = self.start("--max-connections", "5")
        before = [count_sockets(pid) for pid in self.current_pids(server)]
        connections = [server.connect() for _ in range(60)]
        until(
            lambda: sum(map(count_sockets, self.current_pids(server))) - sum(before) <= 5,
            "the surplus connections to be closed",
        )
        for connection in connections:
            connection.abandon()

    def test_workers_auto(self):
        """--workers auto starts one worker per available core; one worker has no supervisor."""
        cores = len(os.sched_getaffinity(0))
        server = Server("--workers", "auto", root=self.root())
        self.addCleanup(server.stop)
        if cores > 1:
            self.await_workers(server, cores)
        self.assertEqual(len(self.pids(server)), cores if cores > 1 else 0)

    def test_one(self):
        """With --workers 1 there is only one process."""
        server = Server("--workers", "1", root=self.root())
        self.addCleanup(server.stop)
        self.assert_serves(server.connect())
        self.assertNotIn("worker 1", server.log)


class EndpointTests(WorkersCase):
    """Every kind of listening socket can be shared."""

    def test_unix(self):
        """A UNIX socket keeps its mode, outlives a worker, and is removed with the server."""
        root = self.root()
        path = root / "socket"
        server = self.start("--listen", LOOPBACK, "--listen", f"unix:{path}:mode=600", root=root)
        self.assert_serves(Connection(str(path)))
        os.kill(self.current_pids(server)[0], signal.SIGTERM)
        self.await_workers(server, 3)
        for _ in range(10):
            self.assert_serves(Connection(str(path)))
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        self.assertEqual(server.stop(), -signal.SIGTERM)
        self.assertFalse(path.exists())
        self.assertNotIn("Traceback", server.log)

    def test_tls(self):
        """Implicit TLS, STLS, Twisted's TLS endpoint and the PROXY protocol work with workers."""
        root = self.root()
        (root / "pop.pem").write_bytes(SERVER.pem())
        (root / "ca.pem").write_bytes(CA.certificate_pem())
        context = ssl.create_default_context(cafile=root / "ca.pem")
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # the test's CA lacks some extensions
        server = self.start(
            *("--certificate", root / "pop.pem", "--listen-tls", LOOPBACK),
            *("--listen", LOOPBACK),
            *("--listen", f"ssl:0:interface=127.0.0.1:privateKey={root}/pop.pem"),
            *("--listen-tls", f"haproxy:{LOOPBACK}", "--listen", f"haproxy:{LOOPBACK}"),
            root=root,
        )
        plain, ssl_endpoint, plain_proxied, tls, tls_proxied = server.ports[:5]

        def wrap(sock):
            return context.wrap_socket(sock, server_hostname="localhost")

        def send_header(sock):
            sock.sendall(binary(INET + TLS_12))
            return sock

        for port, wrapper in (
            (tls, wrap),
            (ssl_endpoint, wrap),
            (plain_proxied, send_header),
            (tls_proxied, lambda sock: wrap(send_header(sock))),
        ):
            for _ in range(4):
                self.assert_serves(Connection(("127.0.0.1", port), wrap=wrapper))
        for _ in range(4):
            connection = Connection(("127.0.0.1", plain))
            self.assertStartsWith(connection.ask(b"STLS"), b"+OK")
            connection.file.close()
            connection.socket = wrap(connection.socket)
            connection.file = connection.socket.makefile("rb")
            self.assert_serves(connection)

    def test_ipv6(self):
        """A socket with an IPv6 address can be shared."""
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError:
            self.skipTest("IPv6 is required")
        server = self.start("--listen", LOOPBACK, "--listen", r"tcp6:0:interface=\:\:1")
        for _ in range(10):
            connection = socket.create_connection(("::1", server.ports[1]), TIMEOUT)
            self.addCleanup(connection.close)
            self.assertStartsWith(connection.recv(100), b"+OK")

    def test_systemd(self):
        """Sockets of systemd can be shared by name or index."""
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
        self.addCleanup(server.wait, TIMEOUT)
        self.addCleanup(server.terminate)
        for each in listening * 4:
            self.assert_serves(Connection(each.getsockname()))
        server.terminate()
        self.assertEqual(server.wait(TIMEOUT), -signal.SIGTERM, log.read_text())
        self.assertNotIn("Traceback", log.read_text())
        for each in listening:
            each.close()

    def test_nothing_to_share(self):
        """With an endpoint that does not listen on a socket, twistd exits and prints the remedy."""
        done = run(
            *("twistd", "-n", "--pidfile=", "pop3", "--maildir", self.root()),
            *("--workers=2", "--listen=stdio:"),
        )
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"omit --workers", done.stdout + done.stderr)


class EndingTests(WorkersCase):
    """Restart of workers, and shutdown."""

    def test_killed_worker(self):
        """A killed worker is restarted at once, and no new connection is refused."""
        server = self.start()
        before = self.current_pids(server)
        connections = [server.connect() for _ in range(40)]
        os.kill(before[0], signal.SIGKILL)
        new = [server.connect() for _ in range(40)]
        for connection in new:
            self.assertStartsWith(connection.ask(b"NOOP"), b"-ERR")
            self.assertStartsWith(connection.close(), b"+OK")
        self.await_workers(server, 3)
        after = self.current_pids(server)
        self.assertNotEqual(after[0], before[0])
        self.assertEqual(after[1], before[1])
        alive = [each for each in connections if self.is_alive(each)]
        self.assertGreater(len(alive), 5)
        self.assertIn("worker 1 exited with signal 9; restarting at once", server.log)

    def test_queue(self):
        """A client that no worker has accepted yet is served, whenever its worker ends."""
        server = self.start()
        for started, restart in enumerate(("at once", "in 1 s", "in 2 s"), 3):
            pid = self.current_pids(server)[0]
            os.kill(pid, signal.SIGSTOP)
            until(lambda pid=pid: state(pid) == "T", "a stopped worker")
            # The kernel assigns about half of them to this worker.
            clients = [
                socket.create_connection(("127.0.0.1", server.port), TIMEOUT) for _ in range(40)
            ]
            os.kill(pid, signal.SIGKILL)
            for client in clients:
                self.assertStartsWith(client.recv(100), b"+OK")
                client.close()
            until(lambda when=restart: f"restarting {when}\n" in server.log, "the log")
            # During the delay, other workers accept them.
            for _ in range(40):
                self.assertStartsWith(server.connect().close(), b"+OK")
            self.await_workers(server, started)

    def is_alive(self, connection):
        """Send QUIT; tell whether the server has replied."""
        try:
            return connection.close().startswith(b"+OK")
        except OSError:
            connection.abandon()
            return False

    def test_sigterm(self):
        """SIGTERM and SIGINT stop all processes cleanly; the log has a line for each session."""
        for number in (signal.SIGTERM, signal.SIGINT):
            server = self.start()
            sessions = [server.login("joe"), *(server.connect() for _ in range(10))]
            pids = self.current_pids(server)
            self.assertEqual(server.stop(number), -number)
            self.assertEqual([pid for pid in pids if is_running(pid)], [])
            self.assertEqual([session.rest() for session in sessions], [b""] * 11)
            self.assertIn('session of "joe" ended, shutdown: ', server.log)
            self.assertIn("Server Shut Down", server.log)
            self.assertNotIn("Traceback", server.log)
            self.assertNotIn("restarting", server.log)
            for session in sessions:
                session.abandon()

    def test_sigterm_to_all(self):
        """The shutdown is clean if a service manager sends SIGTERM to all processes."""
        server = self.start()
        for pid in (server.process.pid, *self.current_pids(server)):
            os.kill(pid, signal.SIGTERM)
        self.assertEqual(server.process.wait(TIMEOUT), -signal.SIGTERM)
        self.assertNotIn("Traceback", server.log)
        self.assertNotIn("restarting", server.log)

    def test_killed_supervisor(self):
        """Workers exit when the supervisor is killed."""
        server = self.start()
        pids = self.current_pids(server)
        session = server.login("joe")
        server.stop(signal.SIGKILL)
        until(lambda: not any(map(is_running, pids)), "the workers to end")
        self.assertEqual(session.rest(), b"")
        session.abandon()

    def test_stuck_supervisor(self):
        """A stopped supervisor does not stop its workers, and no log line is lost."""
        server = self.start()
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            for _ in range(500):
                server.login("joe").close()
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        until(lambda: server.log.count('session of "joe" ended') == 500, "the log")


class StartingTests(WorkersCase):
    """Start of a server with workers, and errors at the start."""

    def last_line(self, *options, twistd=()):
        """Run a server that must fail to start; return the last line of its output."""
        done = run(
            *("twistd", "--nodaemon", "--pidfile=", *twistd, "pop3"),
            *options,
        )
        output = (done.stdout + done.stderr).decode()
        self.assertEqual(done.returncode, 1, output)
        self.assertNotIn("Traceback", output)
        return re.sub(r"^.*\[stderr#error\] ", "", output.splitlines()[-1])

    def test_first_instant(self):
        """A client that connects while the server starts is refused or served, and never reset."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = free.getsockname()
        with Poller(address) as poller:
            poller.wait()
            self.start("--listen", f"tcp:{address[1]}:interface=127.0.0.1", workers=4)
            poller.wait()
        for outcomes in poller.outcomes:
            changes = [outcome for outcome, _ in groupby(outcomes)]
            self.assertEqual(changes, ["ConnectionRefusedError", "served"])

    def test_port_taken(self):
        """A port in use is reported as with one process, even if it could be shared."""
        root = self.root()
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            listen = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
            outputs = [
                self.last_line("--maildir", root, "--listen", listen, "--workers", workers)
                for workers in ("1", "2")
            ]
        self.assertEqual(outputs[0], outputs[1])
        self.assertIn("Is another server listening there?", outputs[0])

    def test_two_servers(self):
        """Two servers cannot share a port by accident."""
        server = self.start()
        output = self.last_line(
            *("--maildir", self.root(), "--workers", "2"),
            *("--listen", f"tcp:{server.port}:interface=127.0.0.1"),
        )
        self.assertIn("Is another server listening there?", output)

    def test_user(self):
        """Started as root, the supervisor binds the ports, and the workers run as --uid."""
        root = self.root()
        if not self.give_to_nobody(root):
            self.skipTest("the user nobody cannot run this Python")
        server = self.start(
            *("--listen", "tcp:0:interface=127.0.0.1", "--listen", f"unix:{root}/socket"),
            root=root,
            twistd=self.as_nobody(),
        )
        for _ in range(4):
            self.assert_serves(server.connect())
            self.assert_serves(Connection(f"{root}/socket"))
        uid = str(pwd.getpwnam("nobody").pw_uid)
        for pid in self.current_pids(server):
            status = Path(f"/proc/{pid}/status").read_text()
            self.assertEqual(re.search(r"Uid:(.*)", status)[1].split(), [uid] * 4)

    def give_to_nobody(self, root):
        """Give a directory to the user nobody; tell whether nobody can run this Python."""
        if not IS_ROOT:
            self.skipTest("only root can change its user")
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
        """Return twistd's options to run as the user nobody."""
        nobody = pwd.getpwnam("nobody")
        return f"--uid={nobody.pw_uid}", f"--gid={nobody.pw_gid}"

    def test_unreadable_for_the_user(self):
        """If the user of --uid cannot read a file, twistd exits with one line."""
        root = self.root()
        can_run = self.give_to_nobody(root)
        pem = temporary_directory(self) / "pop.pem"
        pem.write_bytes(SERVER.pem())
        pem.chmod(0o600)
        output = self.last_line(
            *("--maildir", root, "--workers", "2", "--certificate", pem, "--listen", LOOPBACK),
            twistd=self.as_nobody(),
        )
        if can_run:
            self.assertStartsWith(output, f"popserv: {pem}: ")
            self.assertIn("--certificate", output)
        else:
            self.assertIn("must be able to run Python", output)

    def test_daemon(self):
        """A daemon in another directory resolves paths against the one where it was started."""
        root = self.root()
        rundir = temporary_directory(self)
        log = rundir / "log"
        files = (f"--pidfile={root}/pid", f"--logfile={log}", f"--rundir={rundir}")
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
                self.assert_serves(Connection(str(rundir / "socket")))
            until(lambda: log.read_text().count('session of "joe" ended') == 12, "the log")
            # The kernel may give all connections to one worker.
            self.assertRegex(log.read_text(), r"\[worker [12]: popserv\.session#info\]")
        finally:
            os.kill(pid, signal.SIGTERM)
        until(lambda: not (root / "pid").exists(), "the pidfile to be removed")
        until(lambda: not is_running(pid), "the server to end")
        self.assertIn("Server Shut Down", log.read_text())
