"""The memory of a server by its idle connections, in cleartext and over TLS, in each state."""

import os
import ssl
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
    connection = Connection(("127.0.0.1", server.ports[is_tls]), wrap=wrap)
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
    that is used again does not grow.
    """
    show(f"{number} idle connections, KiB for each; and for as many again, after those are closed")
    for transport in TRANSPORTS:
        for state in STATES:
            server = start(number)
            first = octets_per_connection(server, transport, state, number) / 1024
            again = octets_per_connection(server, transport, state, number) / 1024
            show(f"{transport:5} {state:12} {first:8.1f} {again:8.1f}")
            server.stop()


def raise_file_limit():
    """Let this process open as many files as it may; return how many."""
    # Not on all platforms.
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return min(hard, os.sysconf("SC_OPEN_MAX"))
