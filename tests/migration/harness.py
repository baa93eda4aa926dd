"""A POP3 server in a thread, which a test can make do what a real one does not."""

import re
import socket
import ssl
import threading
from contextlib import suppress

from popserv.migration.pop3_urls import ServerAddress
from tests.certificates import issue, make_authority

CA = make_authority()
CERTIFICATE = issue("localhost", issuer=CA)


def stuffed(body):
    """Return a multi-line response of lines that end with CRLF."""
    return b"+OK\r\n" + re.sub(rb"(?m)^\.", b"..", body) + b".\r\n"


def header_of(message):
    """Return the header of a message in wire form, with the blank line."""
    return message.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"


class FakeServer:
    """A server of one maildrop, in which every session sees the same messages.

    ``messages`` are pairs of a unique-id and the octets in wire form.  ``replies`` are octets to
    send, or None to close the connection, or a function that sends something on it, by line or by
    keyword; ``capa`` the lines of CAPA.  ``starts_tls`` offers STLS, ``implicit_tls`` begins with
    it.  ``commands`` are the lines received, and ``changes`` those that would have changed the
    maildrop at QUIT.
    """

    def __init__(self, test, messages=(), *, capa=(b"TOP", b"UIDL"), replies=None, **options):
        self.messages = list(messages)
        self.capa = list(capa)
        self.replies = dict(replies or {})
        self.greeting = options.get("greeting", b"+OK ready\r\n")
        self.starts_tls = options.get("starts_tls", False)
        self.implicit_tls = options.get("implicit_tls", False)
        self.commands = []
        self.changes = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        scheme = "pop3s" if self.implicit_tls else "pop3"
        self.url = f"{scheme}://localhost:{self.port}"
        self.address = ServerAddress.from_url(self.url)
        self._path = test.mktemp()
        with open(self._path, "wb") as file:
            file.write(CERTIFICATE.pem())
        self._connections = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        test.addCleanup(self._stop)

    def _stop(self):
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def _serve(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            try:
                self._run_session(connection)
            except OSError:
                pass
            finally:
                connection.close()

    def _run_session(self, connection):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self._path)
        if self.implicit_tls:
            connection = context.wrap_socket(connection, server_side=True)
        try:
            connection.sendall(self.greeting)
            pending = []
            buffer = b""
            while True:
                while b"\r\n" not in buffer:
                    received = connection.recv(4096)
                    if not received:
                        return
                    buffer += received
                line, _, buffer = buffer.partition(b"\r\n")
                self.commands.append(line)
                reply = self._reply(line, pending)
                if reply is None:
                    return
                if callable(reply):
                    reply(connection)
                else:
                    connection.sendall(reply)
                if line == b"STLS" and self.starts_tls:
                    connection = context.wrap_socket(connection, server_side=True)
                elif line == b"QUIT":
                    self.changes += pending
                    return
        finally:
            connection.close()

    def _reply(self, line, pending):
        keyword, *arguments = line.split(b" ")
        for key in (line, keyword):
            if key in self.replies:
                return self.replies[key]
        if keyword == b"CAPA":
            lines = [*self.capa, *([b"STLS"] if self.starts_tls else [])]
            return stuffed(b"".join(each + b"\r\n" for each in lines))
        if keyword in (b"DELE", b"RETR"):
            # As Dovecot: at QUIT, what was retrieved becomes seen.
            pending.append(line)
        if keyword == b"RSET":
            pending.clear()
        if keyword in (b"LIST", b"UIDL"):
            values = [len(octets) if keyword == b"LIST" else uid for uid, octets in self.messages]
            lines = [
                f"{number} ".encode() + (b"%d" % value if isinstance(value, int) else value)
                for number, value in enumerate(values, 1)
            ]
            return stuffed(b"".join(each + b"\r\n" for each in lines))
        if keyword in (b"RETR", b"TOP"):
            octets = self.messages[int(arguments[0]) - 1][1]
            return stuffed(octets if keyword == b"RETR" else header_of(octets))
        return b"+OK done\r\n"
