"""The ports of ``twistd pop3``: IPv4 and IPv6, and sockets of systemd."""

import socket
import sys
from pathlib import Path

from twisted.trial.unittest import TestCase

from popserv.auth.passwords.users_file_editing import set_secret
from popserv.server.listening_reactor import has_ipv6
from tests.certificates import issue
from tests.live.harness import (
    BIN,
    CHECKOUT,
    TIMEOUT,
    Server,
    require_programs,
    run,
    temporary_directory,
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
