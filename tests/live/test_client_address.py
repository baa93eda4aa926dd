"""allow_nets by the address of the client, on every kind of socket, with workers."""

from popserv.auth.passwords.users_file import default_path
from tests.live.harness import LOOPBACK, Connection, Server, ServerTestCase, temporary_directory

USERS = (
    b"near:{PLAIN}secret::::::allow_nets=127.0.0.0/8\n"
    b"far:{PLAIN}secret::::::allow_nets=192.0.2.0/24\n"
    b"here:{PLAIN}secret::::::allow_nets=local\n"
    b"nobody:{PLAIN}secret::::::allow_nets=::1\n"
)
NAMES = ("near", "far", "here", "nobody")


class ClientAddressTests(ServerTestCase):
    """A server with workers, a port, a port behind a proxy, and a UNIX socket."""

    def new_server(self):
        """Start the server with the users file."""
        root = temporary_directory()
        path = root / ".users"
        self.assertEqual(str(path), default_path(str(root)))
        path.write_bytes(USERS)
        path.chmod(0o600)
        return Server(
            *("--allow-plaintext", "--workers", "2", "--listen", LOOPBACK),
            *("--listen", f"haproxy:{LOOPBACK}", "--listen", f"unix:{root}/socket"),
            root=root,
        )

    def accepted(self, connect, names=NAMES):
        """Return which of these users can log in over connections that a function opens."""
        connections = [connect() for _ in names]
        for name, connection in zip(names, connections, strict=True):
            connection.ask(b"USER " + name.encode())
            connection.socket.sendall(b"PASS secret\r\n")
        replies = [connection.line() for connection in connections]
        for connection in connections:
            connection.abandon()
        refused = {reply for reply in replies if not reply.startswith(b"+OK")}
        self.assertEqual(refused, {b"-ERR [AUTH] authentication failed"})
        return {
            name for name, reply in zip(names, replies, strict=True) if reply.startswith(b"+OK")
        }

    def behind_proxy(self, address):
        """Return a function that connects as a proxy for a client with this address."""

        def send_header(sock):
            sock.sendall(f"PROXY TCP4 {address} 127.0.0.1 1234 110\r\n".encode())
            return sock

        return lambda: Connection(("127.0.0.1", self.server.ports[1]), wrap=send_header)

    def test_addresses(self):
        """The address is that of the client, not of its proxy; a UNIX socket has none."""
        self.assertEqual(self.accepted(self.server.connect), {"near"})
        self.assertEqual(self.accepted(self.behind_proxy("192.0.2.7"), ("near", "far")), {"far"})
        self.assertEqual(self.accepted(self.behind_proxy("127.0.0.1")), {"near"})
        path = str(self.server.root / "socket")
        self.assertEqual(self.accepted(lambda: Connection(path)), {"here"})
        self.assertIn("allow_nets does not have the client's address", self.server.log)
