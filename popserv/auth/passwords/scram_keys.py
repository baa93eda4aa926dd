"""The keys that a server stores for SCRAM (RFC 5802 section 3)."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from typing import NamedTuple

from popserv.core.grammar import decode_base64

SCRAM_ROUNDS = 32_768
"""PBKDF2 rounds of a new SCRAM-SHA-256 secret; RFC 7677 section 4 wants 4,096 at least."""


class ScramKeys(NamedTuple):
    """What a server knows of a password for SCRAM (RFC 5802 section 3)."""

    rounds: int
    salt: bytes
    stored_key: bytes
    server_key: bytes


def scram_keys(
    hash_name: str, password: bytes, salt: bytes | None = None, rounds: int = SCRAM_ROUNDS
) -> ScramKeys:
    """Return a password's keys; without ``salt`` under a new one."""
    if salt is None:
        salt = os.urandom(16)
    salted = hashlib.pbkdf2_hmac(hash_name, password, salt, rounds)
    client_key = hmac.digest(salted, b"Client Key", hash_name)
    server_key = hmac.digest(salted, b"Server Key", hash_name)
    return ScramKeys(rounds, salt, hashlib.new(hash_name, client_key).digest(), server_key)


def parse_scram_keys(text: bytes) -> ScramKeys:
    """Return the keys of a SCRAM secret's text, ``rounds,salt,StoredKey,ServerKey``."""
    rounds, salt, stored_key, server_key = text.split(b",")
    return ScramKeys(parse_rounds(rounds), *map(decode_base64, (salt, stored_key, server_key)))


def parse_rounds(text: bytes) -> int:
    """Return a number of PBKDF2 rounds; more than hashlib can do would be an OverflowError."""
    if not re.fullmatch(rb"[0-9]{1,9}", text):
        raise ValueError("that is no number of rounds")
    return int(text)
