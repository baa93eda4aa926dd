"""Clients that close their end of a TLS connection, and still read."""

import contextlib
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

MESSAGES = [b"Subject: %d\n\n" % n + b"x" * 50 * n + b"\n" for n in range(5)]


class Client:
    """A TLS client that can close only its end, which SSLSocket cannot."""

    def __init__(self, port, *, stls=False, version=None):
        self.socket = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        if stls:
            with self.socket.makefile("rb", buffering=0) as file:
                file.readline()
                self.socket.sendall(b"STLS\r\n")
                file.readline()
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if version:
            context.maximum_version = version
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing)
        self._until_read(self._tls.do_handshake)
        if not stls:
            self.read_lines(1)

    def _until_read(self, function):
        """Call a function of the TLS connection, until it has read all that it needs."""
        while True:
            try:
                return function()
            except ssl.SSLWantReadError:
                self.send()
                data = self.socket.recv(1 << 16)
                if not data:
                    raise AssertionError("the server has closed without close_notify") from None
                self._incoming.write(data)

    def send(self, octets=b""):
        """Send octets, and what TLS has to send."""
        if octets:
            self._tls.write(octets)
        if self._outgoing.pending:
            self.socket.sendall(self._outgoing.read())

    def read_lines(self, number):
        """Read this number of lines."""
        received = b""
        while received.count(b"\n") < number:
            received += self._until_read(lambda: self._tls.read(1 << 16))

    def half_close(self, octets, *, tcp=False):
        """Send octets and close_notify in one packet; return all that the server sends."""
        self._tls.write(octets)
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
        self.send()
        if tcp:
            self.socket.shutdown(socket.SHUT_WR)
        received = b""
        with contextlib.suppress(ssl.SSLZeroReturnError):
            while True:
                received += self._until_read(lambda: self._tls.read(1 << 16))
        self.close()
        return received

    def close(self):
        """Read until the server closes, and close."""
        while self.socket.recv(1 << 16):
            pass
        self.socket.close()


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

    def test_replies(self):
        """With TLS 1.3 each command gets its reply (RFC 8446 section 6.1)."""
        for tcp in (False, True):
            for client in self.clients():
                commands = [b"RETR %d" % n for n in range(1, 6)] * 200
                _, octets = self.session(*commands, b"QUIT")
                replies = client.half_close(octets, tcp=tcp)
                self.assertEqual(replies.count(b"\r\n.\r\n"), 1000)
                self.assertIn(b"signing off", replies.splitlines()[-1])

    def test_quit(self):
        """QUIT removes, and its reply is sent."""
        for tcp in (False, True):
            for client in self.clients():
                maildir, octets = self.session(b"DELE 2", b"QUIT")
                replies = client.half_close(octets, tcp=tcp)
                self.assertIn(b"signing off", replies.splitlines()[-1])
                self.assertEqual(len(read_maildir(maildir)), len(MESSAGES) - 1)

    def test_no_quit(self):
        """Without QUIT the session ends once all is answered; nothing is removed or locked."""
        for client in self.clients():
            maildir, octets = self.session(b"DELE 2", b"STAT")
            replies = client.half_close(octets)
            self.assertTrue(replies.splitlines()[-1].startswith(b"+OK 4 "), replies)
            self.assertEqual(len(read_maildir(maildir)), len(MESSAGES))
            self.server.login(maildir.name).close()

    def test_tls_1_2(self):
        """With TLS 1.2 the connection ends at once, and QUIT still removes (RFC 5246, 7.2.1)."""
        for client in self.clients(version=ssl.TLSVersion.TLSv1_2):
            maildir, octets = self.session(b"DELE 2")
            client.send(octets)
            client.read_lines(3)
            client.half_close(b"QUIT\r\n")
            until(lambda found=maildir: len(read_maildir(found)) == 4, "the removal")

    def test_truncated(self):
        """The end of the TCP connection alone is not believed: who has sent it is unknown."""
        for client in self.clients():
            maildir, octets = self.session(b"DELE 2", b"NOOP")
            client.send(octets)
            client.socket.shutdown(socket.SHUT_WR)
            client.close()
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
