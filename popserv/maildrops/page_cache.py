"""Reading from files without waiting for a disk: only what the page cache has.

These functions share a buffer: call them in the reactor's thread only.
"""

from __future__ import annotations

import os

CHUNK = 1 << 17
"""The maximum octets of one read."""

# With RWF_NOWAIT, preadv(2) fails if it had to wait for the disk.  Where there is no such flag,
# -1 makes it fail always, and everything is read in threads.
_NOWAIT: int = getattr(os, "RWF_NOWAIT", -1)

_BUFFER = memoryview(bytearray(CHUNK))


def read_start(fd: int, maximum: int, offset: int = 0) -> bytes | None:
    """Return up to ``maximum`` octets from an offset of a file, perhaps fewer than there are.

    Return None if the page cache does not have the first of them.
    """
    part = _BUFFER[:maximum]
    try:
        return bytes(part[: os.preadv(fd, (part,), offset, _NOWAIT)])
    except OSError:
        return None


def read_part(fd: int, octets: int, offset: int) -> bytes | None:
    """Return a part of a file, or None if the page cache does not have all of it."""
    part = read_start(fd, octets, offset)
    return part if part is not None and len(part) == octets else None
