"""Reading from files without waiting for a disk: only what the page cache has.

These functions share a buffer: call them in the reactor's thread only.
"""

from __future__ import annotations

import os

from popserv.runtime.closing import close
from popserv.runtime.speedups import speedup

CHUNK = 1 << 17
"""The maximum octets of one read."""

OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""The flags to open a message file: links are not followed, and a FIFO does not block."""

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


@speedup
def read_part(fd: int, octets: int, offset: int) -> bytes | None:
    """Return a part of a file, or None if the page cache does not have all of it.

    It has at most CHUNK octets.
    """
    part = read_start(fd, octets, offset)
    return part if part is not None and len(part) == octets else None


@speedup
def read_cached_file(name: bytes, folder: int, maximum: int) -> bytes | None:
    """Open a file in an open folder, and return up to ``maximum`` octets from its start.

    Return None if that is not possible without reading its contents from a disk; the kernel may
    have to read the directory entry or the inode.  A file that the page cache has in part may be
    returned in part.
    """
    try:
        fd = os.open(name, OPEN_FLAGS, dir_fd=folder)
    except OSError:
        return None
    try:
        return read_start(fd, maximum)
    finally:
        close(fd)
