"""The log lines of sessions, as real servers write them."""

import re
import ssl

from twisted.trial.unittest import TestCase

from tests.certificates import issue
from tests.live.harness import LOOPBACK, Connection, Server, temporary_directory, until


class SessionLineTests(TestCase):
    """A server with and without workers, and clients with and without TLS."""

    def start(self, *options):
        """Start a server with TLS; return it, and a TLS context for its clients."""
        certificate = temporary_directory(self) / "server.pem"
        certificate.write_bytes(issue("localhost").pem())
        server = Server(
            *("--listen", LOOPBACK, "--listen-tls", LOOPBACK, "--certificate", certificate),
            *options,
        )
        self.addCleanup(server.stop)
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return server, context

    def log_in(self, server, name, port, **options):
        """Return a connection that has logged in."""
        connection = Connection(("127.0.0.1", port), **options)
        self.addCleanup(connection.abandon)
        connection.ask(b"USER " + name.encode())
        self.assertTrue(connection.ask(b"PASS secret").startswith(b"+OK"))
        return connection

    def test_lines(self):
        """Each session has a line at its beginning, and one at its end with the reason."""
        for options in ([], ["--workers", "2"]):
            server, context = self.start(*options)
            name, _ = server.add_user([b"one\n", b"two\n"])
            cleartext, tls = server.ports[:2]
            self.log_in(server, name, cleartext).close()
            over_tls = self.log_in(server, name, tls, wrap=context.wrap_socket)
            over_tls.ask(b"RETR 1")
            over_tls.lines()
            over_tls.ask(b"DELE 2")
            over_tls.close()
            self.log_in(server, name, cleartext).abandon()
            lines = [
                " ended, closed by the client: ",
                rf'127\.0\.0\.1:\d+: "{name}" logged in by PASS, no TLS\n',
                rf'127\.0\.0\.1:\d+: "{name}" logged in by PASS, TLSv1\.3\n',
                rf'session of "{name}" ended, QUIT: \d+\.\d s, 1 retrieved \(5 octets\), '
                r"1 removed, 1 left\n",
            ]
            # The lines of different workers come in any order, and a little later.
            for line in lines:
                self.await_line(server, line)

    def test_in_use(self):
        """A login to a locked maildrop has a line, also if another worker has the lock."""
        server, _ = self.start("--workers", "2")
        name, _ = server.add_user()
        self.log_in(server, name, server.port)
        other = server.connect()
        self.addCleanup(other.abandon)
        other.ask(b"USER " + name.encode())
        self.assertIn(b"[IN-USE]", other.ask(b"PASS secret"))
        line = f'login of "{name}" by PASS refused: maildrop already locked\n'
        until(lambda: line in server.log, "the line")

    def test_shutdown(self):
        """Sessions that the end of the server has ended have lines that say so."""
        for options in ([], ["--workers", "2"]):
            server, context = self.start(*options)
            cleartext, tls = server.ports[:2]
            names = [server.add_user()[0] for _ in range(2)]
            self.log_in(server, names[0], cleartext)
            self.log_in(server, names[1], tls, wrap=context.wrap_socket)
            server.stop()
            for name in names:
                self.assertIn(f'session of "{name}" ended, shutdown: ', server.log)

    def await_line(self, server, pattern):
        """Wait until a line of the log matches a pattern."""
        until(lambda: re.search(pattern, server.log), pattern)
