"""Decoys: password fields and SCRAM keys for names that no user has.

A client must not be able to find out which users exist.  Therefore a login with an unknown name
takes the time of a login with a known one, and a SCRAM client gets a salt and an iteration count
for any name.  They are the same at each attempt, like those of a user.
"""

from __future__ import annotations

import hmac
import os
import re
from collections.abc import Awaitable, Callable, Sequence
from hashlib import blake2b
from typing import TypeVar

from popserv.auth.names import prepared_name
from popserv.auth.passwords.scram_keys import SCRAM_SALT_OCTETS, ScramKeys

T = TypeVar("T")

_MACHINE_ID = "/etc/machine-id"
"""The file of machine-id(5): unique to the machine, and not to be disclosed on the network."""


def machine_secret() -> bytes:
    """Return a secret of this machine that stays the same when the server restarts.

    If the salt for a name changed at a restart, clients could conclude that the name is unknown.
    The secret must not depend on users' passwords: clients receive the salts that are made from
    it, and could use them to try passwords offline.

    On a machine without a machine id the secret is random and changes at each restart.
    """
    try:
        with open(_MACHINE_ID, "rb") as file:
            machine_id = file.read(33).strip()
    except OSError:
        machine_id = b""
    if not re.fullmatch(rb"[0-9a-f]{32}", machine_id):
        machine_id = os.urandom(32)
    return blake2b(machine_id, person=b"popserv decoys").digest()


class Decoys:
    """Makes decoys that depend only on the user name and on ``secret``.

    ``secret`` is a key of up to 64 octets, or a function that :meth:`prepare` asks for one.

    All spellings of a user's name have the same secret and salt, so all spellings of an unknown
    name have the same decoys.
    """

    def __init__(self, secret: bytes | Callable[[], Awaitable[bytes]]) -> None:
        self._secret: bytes
        self._ask: Callable[[], Awaitable[bytes]] | None = None
        if isinstance(secret, bytes):
            self._secret = secret
        else:
            self._ask = secret

    async def prepare(self) -> None:
        """Ask for the secret, unless it is known; to be awaited before decoys are made.

        :raises Exception: as the function that is asked.
        """
        if self._ask is not None:
            self._secret = await self._ask()
            self._ask = None

    def choose(self, name: bytes, options: Sequence[T]) -> T:
        """Select one of some options, such as users' secrets, always the same one for a name."""
        digest = blake2b(_same_name(name), key=self._secret, digest_size=8).digest()
        return options[int.from_bytes(digest, "big") % len(options)]

    def scram_keys(
        self, hash_name: str, name: bytes, iterations: int, salt_octets: int = SCRAM_SALT_OCTETS
    ) -> ScramKeys:
        """Return SCRAM keys that no password matches.

        ``iterations`` and ``salt_octets`` must be the iteration count and the length of the salt
        of a user.  Otherwise they would tell clients that the name is unknown.
        """
        spelling = _same_name(name)

        def derive(purpose: bytes) -> bytes:
            return hmac.digest(self._secret, b"%b\0%b" % (purpose, spelling), hash_name)

        salt = derive(b"salt")
        while len(salt) < salt_octets:
            salt += derive(b"salt from %d" % len(salt))
        salt = salt[:salt_octets]
        return ScramKeys(iterations, salt, derive(b"stored key"), derive(b"server key"))


def _same_name(name: bytes) -> bytes:
    """Return one spelling for all spellings that the users file regards as the same name."""
    return prepared_name(name).lower()
