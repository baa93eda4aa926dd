"""Decoys: password fields and SCRAM keys for names that are no user's."""

from __future__ import annotations

import hmac
import os
import re
from collections.abc import Sequence
from hashlib import blake2b

from popserv.auth.passwords.scram_keys import ScramKeys

_MACHINE_ID = "/etc/machine-id"
"""A secret of this machine to those who are not on it (machine-id(5))."""


def machine_secret() -> bytes:
    """Return what the challenges of unknown names are made of.

    The salt of a name must stay over restarts, or it would tell who is a user.  It must
    not be made of anybody's password: whoever asked for it could try passwords at home.
    """
    try:
        with open(_MACHINE_ID, "rb") as file:
            known = file.read(33).strip()
    except OSError:
        known = b""
    if not re.fullmatch(rb"[0-9a-f]{32}", known):
        known = os.urandom(32)
    return blake2b(known, person=b"popserv decoys").digest()


class Decoys:
    """Decoys for names that are no user's, the same each time for one name and ``secret``."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def password_field(self, name: bytes, fields: Sequence[bytes]) -> bytes:
        """Return some user's password field, always the same for one unknown name."""
        digest = blake2b(name, key=self._secret, digest_size=8).digest()
        return fields[int.from_bytes(digest, "big") % len(fields)]

    def scram_keys(self, hash_name: str, name: bytes, rounds: int) -> ScramKeys:
        """Return keys for a name that is no user's, so that it is challenged like a user's.

        They are the same each time for one name and ``secret``, as a user's are, and no
        password fits them.  Whoever sees a salt change with the secret, or ``rounds`` that
        no user has, knows who is none.
        """

        def derive(what: bytes) -> bytes:
            return hmac.digest(self._secret, b"%b\0%b" % (what, name), hash_name)

        return ScramKeys(rounds, derive(b"salt")[:16], derive(b"stored key"), derive(b"server key"))
