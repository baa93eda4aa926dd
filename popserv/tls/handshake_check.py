"""Tries a server's TLS context with handshakes in memory, before clients do.

OpenSSL loads certificates and keys that no handshake can use.

Requires the extra ``tls``.
"""

from __future__ import annotations

from contextlib import suppress

from OpenSSL import SSL

_VERSIONS = {
    SSL.TLS1_2_VERSION: "TLS 1.2",
    SSL.TLS1_3_VERSION: "TLS 1.3",
}
"""The versions that clients use now, and their names."""

_MAX_FLIGHTS = 10
"""More messages in one direction than any handshake has."""


def failed_handshake(context: SSL.Context, minimum_version: int) -> tuple[str, str] | None:
    """Return the version of TLS that a client cannot use, and the reason; or None.

    A handshake is tried for each version from ``minimum_version`` on, by a client that accepts
    every certificate, key and cipher.
    """
    for version, name in _VERSIONS.items():
        if version >= minimum_version:
            try:
                _handshake(context, version)
            except SSL.Error as error:
                return name, openssl_reason(error)
    return None


def _handshake(context: SSL.Context, version: int) -> None:
    """Complete a handshake.

    :raises SSL.Error: the server's end, or else the client's, has failed.
    """
    lenient = SSL.Context(SSL.TLS_CLIENT_METHOD)
    lenient.set_min_proto_version(version)
    lenient.set_max_proto_version(version)
    lenient.set_cipher_list(b"ALL:@SECLEVEL=0")
    client, server = SSL.Connection(lenient, None), SSL.Connection(context, None)
    client.set_connect_state()
    server.set_accept_state()
    for _ in range(_MAX_FLIGHTS):
        for end, other in ((client, server), (server, client)):
            with suppress(SSL.WantReadError):
                end.do_handshake()
            with suppress(SSL.WantReadError):
                while True:
                    other.bio_write(end.bio_read(1 << 16))
        if client.get_finished() and server.get_peer_finished():
            return
    raise SSL.Error([("", "", "the handshake does not end")])


def openssl_reason(error: Exception) -> str:
    """Return OpenSSL's text of an error, without function names."""
    if isinstance(error, SSL.Error) and error.args and error.args[0]:
        return str(error.args[0][-1][-1])
    return str(error)
