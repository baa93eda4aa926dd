"""The mechanism CRAM-MD5 (RFC 2195)."""

from __future__ import annotations

import secrets
import time
from collections.abc import Container

from popserv.auth.credentials import CramMD5Credentials
from popserv.core.session import SendChallenge, Session
from popserv.errors import BadCommand


async def cram_md5_exchange(
    send_challenge: SendChallenge, session: Session, offered: Container[bytes]
) -> CramMD5Credentials:
    """Run an exchange of CRAM-MD5; see :data:`popserv.auth.sasl.mechanisms.Exchange`.

    Each challenge is unique.
    """
    challenge = b"<%d.%d@%b>" % (secrets.randbits(64), time.time_ns(), session.host)
    name, _, digest = (await send_challenge(challenge)).rpartition(b" ")
    if not name:
        raise BadCommand("malformed CRAM-MD5 response")
    return CramMD5Credentials(name, challenge, digest)
