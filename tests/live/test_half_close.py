"""Clients that close their end of a TLS connection, and still read."""

import socket
import ssl

from tests.certificates import issue
from tests.live.harness import (
    LOOPBACK,
    TIMEOUT,
    Server,
    ServerTestCase,
    read_maildir,
    require_programs,
    run,
    temporary_directory,
    until,
)
from tests.tls.client_socket import ClientSocket

MESSAGES = [b"Subject: %d\n\n" % n + b"x" * 50 * n + b"\n" for n in range(5)]


class Client(ClientSocket):
    """A client that has read the greeting, and has perhaps sent STLS."""

    def __init__(self, port, *, stls=False, version=None):
        connection = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        if stls:
            with connection.makefile("rb", buffering=0) as file:
                file.readline()
                connection.sendall(b"STLS\r\n")
                file.readline()
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if version:
            context.maximum_version = version
        super().__init__(connection, context)
        self._file = self.makefile("rb")
        if not stls:
            self.read_lines(1)

    def read_lines(self, number):
        """Read this number of lines."""
        for _ in range(number):
            self._file.readline()

    def rest(self):
        """Return all that the server sends until it closes, and close."""
        try:
            return self._file.read()
        finally:
            self.close()


class HalfCloseTests(ServerTestCase):
    """A server with STLS, and with a port for TLS."""

    def new_server(self):
        """Start the server with a certificate."""
        certificate = temporary_directory() / "server.pem"
        certificate.write_bytes(issue("localhost").pem())
        options = ("--listen", LOOPBACK, "--listen-tls", LOOPBACK)
        return Server("--certificate", certificate, *options)

    def session(self, *commands):
        """Return a user's Maildir, and a session up to these commands."""
        name, maildir = self.server.add_user(MESSAGES)
        lines = [b"USER " + name.encode(), b"PASS secret", *commands]
        return maildir, b"".join(line + b"\r\n" for line in lines)

    def clients(self, **options):
        """Return a client on the port for TLS, and one with STLS."""
        stls, tls = self.server.ports
        yield Client(tls, **options)
        yield Client(stls, stls=True, **options)

    def half_close(self, client, octets, *, tcp=False):
        """Send octets and close_notify, and perhaps half-close TCP; return the replies."""
        client.half_close(octets)
        if tcp:
            client.shutdown(socket.SHUT_WR)
        replies = client.rest()
        self.assertTrue(client.is_closed_by_server)
        return replies

    def test_replies(self):
        """With TLS 1.3 each command gets its reply (RFC 8446 section 6.1)."""
        for tcp in (False, True):
            for client in self.clients():
                commands = [b"RETR %d" % n for n in range(1, 6)] * 200
                _, octets = self.session(*commands, b"QUIT")
                replies = self.half_close(client, octets, tcp=tcp)
                self.assertEqual(replies.count(b"\r\n.\r\n"), 1000)
                self.assertIn(b"signing off", replies.splitlines()[-1])

    def test_quit(self):
        """QUIT removes, and its reply is sent."""
        for tcp in (False, True):
            for client in self.clients():
                maildir, octets = self.session(b"DELE 2", b"QUIT")
                replies = self.half_close(client, octets, tcp=tcp)
                self.assertIn(b"signing off", replies.splitlines()[-1])
                self.assertEqual(len(read_maildir(maildir)), len(MESSAGES) - 1)

    def test_no_quit(self):
        """Without QUIT the session ends once all is answered; nothing is removed or locked."""
        for client in self.clients():
            maildir, octets = self.session(b"DELE 2", b"STAT")
            replies = self.half_close(client, octets)
            self.assertTrue(replies.splitlines()[-1].startswith(b"+OK 4 "), replies)
            self.assertEqual(len(read_maildir(maildir)), len(MESSAGES))
            self.server.login(maildir.name).close()

    def test_tls_1_2(self):
        """With TLS 1.2 the connection ends at once, and QUIT still removes (RFC 5246, 7.2.1)."""
        for client in self.clients(version=ssl.TLSVersion.TLSv1_2):
            maildir, octets = self.session(b"DELE 2")
            client.sendall(octets)
            client.read_lines(3)
            client.half_close(b"QUIT\r\n")
            client.rest()
            until(lambda found=maildir: len(read_maildir(found)) == 4, "the removal")

    def test_truncated(self):
        """The end of the TCP connection alone is not believed: who has sent it is unknown."""
        for client in self.clients():
            maildir, octets = self.session(b"DELE 2", b"NOOP")
            client.sendall(octets)
            client.shutdown(socket.SHUT_WR)
            client.rest()
            self.assertEqual(len(read_maildir(maildir)), len(MESSAGES))
            self.server.login(maildir.name).close()

    def test_gnutls(self):
        """gnutls-cli, which sends close_notify at the end of its input, prints all replies."""
        require_programs(self, "gnutls-cli")
        stls, tls = self.server.ports
        for where in (["--port", tls], ["--port", stls, "--starttls-proto=pop3"]):
            maildir, octets = self.session(b"RETR 5", b"DELE 5", b"QUIT")
            output = run(
                *("gnutls-cli", "--insecure", "--logfile=/dev/null", *where, "127.0.0.1"),
                input=octets,
            ).stdout
            self.assertIn(b"\r\n.\r\n", output)
            self.assertIn(b"signing off", output.splitlines()[-1])
            self.assertEqual(len(read_maildir(maildir)), len(MESSAGES) - 1)
