"""The bytes of an open message file, in chunks: from the page cache, or read in a thread."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

from popserv.messages.framing import Chunk

RunInThread = Callable[..., Awaitable[Any]]
"""Calls a function with arguments where it may block; the awaitable has its return value."""

_CHUNK = 1 << 17

# With RWF_NOWAIT, preadv(2) fails if it had to wait for the disk.  Where there is no such flag,
# -1 makes it fail always, and everything is read in threads.
_NOWAIT: int = getattr(os, "RWF_NOWAIT", -1)

# Only the reactor's thread reads into it.
_BUFFER = memoryview(bytearray(_CHUNK))


def read_body(fd: int, octets: int, run: RunInThread) -> Iterable[Chunk]:
    """Return the first octets of an open file as chunks of at most 128 KiB.

    If the page cache has a body of one chunk, the file is closed now; otherwise the ``close`` of
    the returned iterable closes it.
    """
    if octets <= _CHUNK:
        whole = _read_cached(fd, octets, 0)
        if whole is not None:
            os.close(fd)
            return (whole,)
    return _FileBody(fd, octets, run)


class _FileBody:
    """The chunks of an open file: bytes if the page cache has them, else an awaitable of them."""

    def __init__(self, fd: int, octets: int, run: RunInThread) -> None:
        self._fd = fd
        self._run = run
        self._size = octets
        self._offset = 0

    def __iter__(self) -> Iterator[Chunk]:
        return self

    def __next__(self) -> Chunk:
        octets = min(_CHUNK, self._size - self._offset)
        if octets <= 0:
            raise StopIteration
        offset, self._offset = self._offset, self._offset + octets
        cached = _read_cached(self._fd, octets, offset)
        return cached or self._run(_read, self._fd, octets, offset)

    def close(self) -> None:
        """Close the file; not while a chunk is being read."""
        os.close(self._fd)


def _read_cached(fd: int, octets: int, offset: int) -> bytes | None:
    """Return a part of a file, or None if the page cache does not have all of it."""
    part = _BUFFER[:octets]
    try:
        octets_read = os.preadv(fd, (part,), offset, _NOWAIT)
    except OSError:
        return None
    return bytes(part) if octets_read == octets else None


def _read(fd: int, octets: int, offset: int) -> bytes:
    chunk = os.pread(fd, octets, offset)
    if len(chunk) < octets:
        raise OSError(errno.EIO, "a message has become shorter")
    return chunk
