"""The preparation of passwords (RFC 8265 section 4, profile OpaqueString).

A password that the profile rejects is used unchanged: a password that worked before RFC 8265
was applied continues to work.
"""

from __future__ import annotations

from popserv.auth.precis import enforce


def candidate_passwords(password: bytes) -> list[bytes]:
    """Return the one or two octet strings to verify for a password that a client sent.

    If the password is UTF-8, they are the prepared password and then the password as sent, for
    secrets that were made of unprepared passwords.  If it is not UTF-8, they are the password as
    sent and then its reading as ISO 8859-1 (Latin-1), for clients that send this charset.
    """
    try:
        text = password.decode()
    except UnicodeDecodeError:
        latin1 = password.decode("latin-1")
        candidates = [password, enforce("OpaqueString", latin1) or password]
    else:
        candidates = [enforce("OpaqueString", text) or password, password]
    return list(dict.fromkeys(candidates))


def prepared_password(password: bytes) -> bytes:
    """Return the octets from which a new secret is made."""
    return candidate_passwords(password)[0]
