"""The GS2 header, with which SCRAM and OAUTHBEARER begin (RFC 5801 section 4)."""

from __future__ import annotations


def unescape(saslname: bytes) -> bytes:
    """Return the name that a saslname stands for (RFC 5802 section 5.1)."""
    # In this order: the other one would take "=3D2C" for a comma.
    return saslname.replace(b"=2C", b",").replace(b"=3D", b"=")
