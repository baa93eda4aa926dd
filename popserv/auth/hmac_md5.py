"""HMAC-MD5 from the context that Dovecot stores for CRAM-MD5 (RFC 1321, RFC 2104, RFC 2195).

HMAC begins with one block of 64 octets for each of its two digests, and these depend on the
password only.  The context is the state of MD5 after these blocks, so the password cannot be read
from it.  hashlib cannot continue from a state, so this module has MD5's compression function.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from hashlib import md5

CONTEXT_LENGTH = 32
"""The octets of a context: the state of the outer digest, then that of the inner one."""

_BLOCK = 64
_MASK = 0xFFFFFFFF
_INITIAL_STATE = struct.pack("<4I", 0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476)

# RFC 1321 section 3.4: for each of the 64 steps the constant, the shift and the word of the block.
_STEPS = [
    (
        int(abs(math.sin(step + 1)) * 2**32),
        ((7, 12, 17, 22), (5, 9, 14, 20), (4, 11, 16, 23), (6, 10, 15, 21))[step // 16][step % 4],
        (step, 5 * step + 1, 3 * step + 5, 7 * step)[step // 16] % 16,
    )
    for step in range(64)
]


def hmac_md5_context(key: bytes) -> bytes:
    """Return the context of a password, 32 octets."""
    if len(key) > _BLOCK:
        key = md5(key, usedforsecurity=False).digest()
    key = key.ljust(_BLOCK, b"\0")
    outer, inner = (bytes(octet ^ pad for octet in key) for pad in (0x5C, 0x36))
    return _compress(_INITIAL_STATE, outer) + _compress(_INITIAL_STATE, inner)


def hmac_md5(context: bytes, message: bytes) -> bytes:
    """Return the HMAC-MD5 of a message, 16 octets; ``context`` is that of the password."""
    return _finish(context[:16], _finish(context[16:], message))


def _finish(state: bytes, message: bytes) -> bytes:
    """Return the digest of a block, after which MD5 has this state, and a message."""
    for block in _padded_blocks(message):
        state = _compress(state, block)
    return state


def _padded_blocks(message: bytes) -> Iterator[bytes]:
    """Yield the blocks that follow the first one (RFC 1321 sections 3.1 and 3.2)."""
    zeros = -(len(message) + 9) % _BLOCK
    length = struct.pack("<Q", 8 * (_BLOCK + len(message)))
    padded = message + b"\x80" + bytes(zeros) + length
    return (padded[at : at + _BLOCK] for at in range(0, len(padded), _BLOCK))


def _compress(state: bytes, block: bytes) -> bytes:
    """Return the state after one more block (RFC 1321 section 3.4)."""
    a, b, c, d = initial = struct.unpack("<4I", state)
    words = struct.unpack("<16I", block)
    for step, (constant, shift, word) in enumerate(_STEPS):
        if step < 16:
            mixed = (b & c) | (~b & d)
        elif step < 32:
            mixed = (b & d) | (c & ~d)
        elif step < 48:
            mixed = b ^ c ^ d
        else:
            mixed = c ^ (b | (~d & _MASK))
        total = (a + mixed + constant + words[word]) & _MASK
        rotated = (total << shift) | (total >> (32 - shift))
        a, b, c, d = d, (b + rotated) & _MASK, b, c
    return struct.pack(
        "<4I", *(((x + y) & _MASK) for x, y in zip(initial, (a, b, c, d), strict=True))
    )
