"""The ports of ``twistd pop3``: IPv4 and IPv6, and sockets of systemd."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import TestCase

from popserv.auth.passwords.users_file_editing import set_secret
from popserv.listening.reactor import has_ipv6
from tests.certificates import issue
from tests.live.harness import (
    BIN,
    CHECKOUT,
    LOOPBACK,
    TIMEOUT,
    Connection,
    Server,
    require_programs,
    run,
    temporary_directory,
    until,
)

PROGRAM = Path(__file__).with_name("programs") / "default_ports.py"

NO_IPV6 = """\
import errno, socket
class Socket(socket.socket):
    def __init__(self, family=-1, *arguments, **more):
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        super().__init__(family, *arguments, **more)
socket.socket = Socket
"""


class DefaultPortTests(TestCase):
    """Without --listen the server uses the ports 110 and 995."""

    def setUp(self):
        """Skip the tests where no network of one's own can be made."""
        require_programs(self, "unshare")
        if run("unshare", "--map-root-user", "--net", "true").returncode:
            self.skipTest("network namespaces are required")
        self.root = temporary_directory(self)
        set_secret(str(self.root / ".users"), b"joe", b"{PLAIN}secret", new=True)
        self.certificate = self.root / "cert.pem"
        self.certificate.write_bytes(issue("localhost").pem())

    def greets(self, *options, path=CHECKOUT):
        """Run a server; return for each address whether it greets there."""
        command = [BIN / "twistd", "--nodaemon", "--pidfile=", "pop3", "--maildir", self.root]
        done = run(
            *("unshare", "--map-root-user", "--net", sys.executable, "-I", PROGRAM, *command),
            *("--certificate", self.certificate, *options),
            cwd=self.root,
            env={"PYTHONPATH": str(path)},
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        return dict(line.rsplit(" ", 1) for line in done.stdout.decode().splitlines())

    def test_both(self):
        """The server serves IPv4 and IPv6, on both ports."""
        if not has_ipv6():
            self.skipTest("IPv6 is required")
        for options in ((), ("--workers=2",)):
            self.assertEqual(
                self.greets(*options),
                {
                    "127.0.0.1 110": "yes",
                    "::1 110": "yes",
                    "127.0.0.1 995": "yes",
                    "::1 995": "yes",
                },
            )

    def test_without_ipv6(self):
        """On a machine without IPv6 the server serves IPv4."""
        (self.root / "sitecustomize.py").write_text(NO_IPV6)
        for options in ((), ("--workers=2",)):
            self.assertEqual(
                self.greets(*options, path=f"{self.root}:{CHECKOUT}"),
                {
                    "127.0.0.1 110": "yes",
                    "::1 110": "no",
                    "127.0.0.1 995": "yes",
                    "::1 995": "no",
                },
            )


class SamePortTests(TestCase):
    """tcp: and tcp6: with the same port."""

    def test_both(self):
        """The kernel passes IPv4 connections to the one and IPv6 connections to the other."""
        if not has_ipv6():
            self.skipTest("IPv6 is required")
        with socket.create_server(("", 0)) as free:
            number = free.getsockname()[1]
        for options in ((), ("--workers=2",)):
            server = Server("--listen", f"tcp:{number}", "--listen", f"tcp6:{number}", *options)
            self.addCleanup(server.stop)
            for _ in range(4):
                for host in ("127.0.0.1", "::1"):
                    with socket.create_connection((host, number), TIMEOUT) as client:
                        self.assertEqual(client.recv(3), b"+OK")
            self.assertEqual(server.stop(), -15)


class SystemdTests(TestCase):
    """Sockets that systemd-socket-activate passes as systemd does."""

    def activate(self, options, *pop3_options):
        """Start the server; return a function that connects to a host, and the log."""
        require_programs(self, "systemd-socket-activate")
        root = temporary_directory(self)
        set_secret(str(root / ".users"), b"joe", b"{PLAIN}secret", new=True)
        # As with ListenStream=PORT in a unit, the socket accepts IPv4 and IPv6.
        with socket.create_server(("", 0)) as free:
            number = free.getsockname()[1]
        log = root / "log"
        with log.open("wb") as output:
            server = subprocess.Popen(
                [
                    *("systemd-socket-activate", "-E", f"PYTHONPATH={CHECKOUT}", "-l", str(number)),
                    *(*options, BIN / "twistd", "--nodaemon", "--pidfile="),
                    *("pop3", "--maildir", root, "--allow-plaintext", *pop3_options),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=root,
            )
        self.addCleanup(server.wait, TIMEOUT)
        self.addCleanup(server.kill)
        until(lambda: b"Listening on" in log.read_bytes(), "the socket")
        return server, number, log

    def test_activated(self):
        """A socket is used by index, and by name if it has one; clients of IPv4 are shown so."""
        name = ("--fdname=pop3",)
        for fdname, endpoint, workers in [
            ((), "systemd:domain=INET6:index=0", 1),
            ((), "systemd:domain=INET:index=0", 2),
            (name, "systemd:domain=INET:index=0", 1),
            (name, "systemd:domain=INET6:name=pop3", 2),
        ]:
            server, number, log = self.activate(
                fdname, "--listen", endpoint, "--workers", str(workers)
            )
            client = Connection(("127.0.0.1", number))
            self.assertEqual(client.ask(b"USER joe")[:3], b"+OK")
            self.assertEqual(client.ask(b"PASS secret")[:3], b"+OK", log.read_text())
            client.close()
            # A line of a worker comes a little later.
            until(lambda log=log: b" 127.0.0.1:" in log.read_bytes(), "the line of the session")
            server.terminate()
            self.assertEqual(server.wait(TIMEOUT), -signal.SIGTERM)
            self.assertNotIn("ffff", log.read_text())
            self.assertNotIn("Traceback", log.read_text())

    def test_missing(self):
        """If systemd has passed no such socket, the server says which it has passed."""
        server, number, log = self.activate(
            ("--fdname=pop3",), "--listen", "systemd:domain=INET6:name=smtp"
        )
        with socket.create_connection(("127.0.0.1", number), TIMEOUT):
            server.wait(TIMEOUT)
        self.assertRegex(
            log.read_text(),
            r"--listen \S+name=smtp: systemd has passed these sockets: index=0 \(name=pop3\)",
        )


class BacklogTests(TestCase):
    """Connections that wait to be accepted."""

    def test_rush(self):
        """A hundred clients connect at once to a server that is busy, and none has to try again."""
        server = Server(*("--listen", LOOPBACK, "--listen", f"haproxy:{LOOPBACK}"))
        self.addCleanup(server.stop)
        self.addCleanup(server.process.send_signal, signal.SIGCONT)
        server.process.send_signal(signal.SIGSTOP)
        for port in server.ports:
            for _ in range(100):
                # A longer rush than the queue would wait until the server accepts.
                client = socket.create_connection(("127.0.0.1", port), TIMEOUT)
                self.addCleanup(client.close)
