"""Connected sockets for libldap, shut down after some time.

libldap waits without a time-out for the TLS handshake, and for the rest of a reply of which a part
has come.  Only the end of the connection wakes it.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Timer
from urllib.parse import unquote, urlsplit

import ldap

_PORTS = {"ldap": 389, "ldaps": 636}


@contextmanager
def connected(url: str, seconds: float) -> Iterator[socket.socket]:
    """Connect to the server of a URL; shut the socket down after these seconds.

    The socket is not closed at the end, so that its number can be given away.

    :raises ldap.SERVER_DOWN: there is no connection.
    """
    try:
        opened = _open(url, seconds)
    except OSError as error:
        raise ldap.SERVER_DOWN({"desc": error.strerror or str(error)}) from error
    opened.settimeout(None)
    # If libldap closes its own, the number may belong to another file before the time is over.
    duplicate = opened.dup()
    timer = Timer(seconds, _shut_down, [duplicate])
    timer.daemon = True
    timer.start()
    try:
        yield opened
    finally:
        timer.cancel()
        timer.join()
        duplicate.close()


def _open(url: str, seconds: float) -> socket.socket:
    server = urlsplit(url)
    if server.scheme != "ldapi":
        address = (server.hostname or "", server.port or _PORTS[server.scheme])
        return socket.create_connection(address, seconds)
    local = socket.socket(socket.AF_UNIX)
    local.settimeout(seconds)
    try:
        local.connect(unquote(server.netloc))
    except OSError:
        local.close()
        raise
    return local


def _shut_down(each: socket.socket) -> None:
    # The server may have closed the connection meanwhile.
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
