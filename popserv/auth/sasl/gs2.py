"""The syntax that SCRAM and OAUTHBEARER share: the saslname of GS2 headers (RFC 5801 section 4)."""

from __future__ import annotations

SASLNAME = rb"(?:[^\x00,=]|=2C|=3D)+"
"""A regular expression for a saslname, in which ``=2C`` is a comma and ``=3D`` an equals sign."""


def decode_saslname(saslname: bytes) -> bytes:
    """Return the name that a saslname encodes."""
    # In the other order "=3D2C" would become a comma.
    return saslname.replace(b"=2C", b",").replace(b"=3D", b"=")
