"""The memory of a server by its idle connections, in cleartext and over TLS, in each state."""

import ssl
from contextlib import suppress
from functools import cache
from pathlib import Path

from popserv.auth.passwords.users_file import default_path
from tests.certificates import issue
from tests.live.harness import LOOPBACK, Connection, Server, deliver, temporary_directory

STATES = {
    "greeting": (),
    "half a line": (b"USE",),
    "after USER": (b"USER %b\r\n",),
    "in AUTH": (b"AUTH LOGIN\r\n",),
    "logged in": (b"USER %b\r\n", b"PASS secret\r\n"),
}
"""What a client has sent in each state; ``%b`` is the name of a user of its own."""

TRANSPORTS = ("plain", "TLS")

ADDRESSES = 50
"""The client's addresses, in turn."""

FILES = {"logged in": 2}
"""The files that a server needs for a connection in a state, if they are not 1."""

RESERVE = 200
"""The files that it needs besides."""


def start(connections):
    """Start a server that permits so many connections, with as many users and empty maildrops."""
    root, certificate = temporary_directory(), temporary_directory() / "server.pem"
    certificate.write_bytes(issue("localhost").pem())
    users = Path(default_path(str(root)))
    users.touch(0o600)
    users.write_text("".join(f"user{n}:{{PLAIN}}secret\n" for n in range(connections)))
    for n in range(connections):
        deliver(root / f"user{n}", [])
    return Server(
        *("--certificate", certificate, "--max-connections", connections + 10),
        *("--listen", LOOPBACK, "--listen-tls", LOOPBACK),
        root=root,
    )


@cache
def tls_context():
    """Return the context of TLS clients, which accept any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def connect(server, transport, state, number):
    """Return a new connection in a state."""
    is_tls = transport == "TLS"
    wrap = tls_context().wrap_socket if is_tls else None
    connection = Connection(
        ("127.0.0.1", server.ports[is_tls]),
        wrap=wrap,
        source=f"127.0.0.{2 + number % ADDRESSES}",
    )
    for octets in STATES[state]:
        connection.socket.sendall(octets.replace(b"%b", b"user%d" % number))
        if octets.endswith(b"\n") and connection.line()[:1] != b"+":
            raise AssertionError(f"refused in the state {state}")
    return connection


def octets_per_connection(server, transport, state, number):
    """Return the octets by which each of so many idle connections lets the server grow."""
    connect(server, transport, state, 0).abandon()
    before = server.memory
    connections = [connect(server, transport, state, n) for n in range(number)]
    growth = (server.memory - before) / number
    for connection in connections:
        connection.abandon()
    return growth


def measure(number, show):
    """Show the KiB of an idle connection in each state; each has a server of its own.

    The second value is what as many connections take after the first have been closed: memory
    that is used again does not grow.  There are fewer connections if the limit of open files
    allows no more.
    """
    files = raise_file_limit(2 * number + RESERVE) - RESERVE
    show("idle connections, KiB for each; and for as many again, after those are closed")
    for transport in TRANSPORTS:
        for state in STATES:
            connections = min(number, files // FILES.get(state, 1))
            server = start(connections)
            grown = [
                octets_per_connection(server, transport, state, connections) / 1024
                for _ in range(2)
            ]
            show(f"{transport:5} {state:12} {connections:6} {grown[0]:8.1f} {grown[1]:8.1f}")
            server.stop()


def raise_file_limit(needed):
    """Let this process and its servers open so many files, or as many as they may; return that."""
    # Not on all platforms.
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with suppress(ValueError, OSError):
        # Only root may.
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, max(hard, needed)))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
