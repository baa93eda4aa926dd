"""The bytes of an open message file, in chunks: from the page cache, or read in a thread."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from popserv.errors import MessageChanged
from popserv.maildrops.maildir.contents.compressed import (
    DecompressedFile,
    UnreadableContents,
    compression_of,
)
from popserv.maildrops.page_cache import CHUNK, read_part
from popserv.maildrops.path_problems import explain_file
from popserv.messages.framing import Chunk
from popserv.runtime.closing import close
from popserv.runtime.threads import RunInThread


async def read_body(fd: int, octets: int, run: RunInThread) -> Iterable[Chunk]:
    """Return the contents of an open file as chunks of at most 128 KiB, decompressed.

    ``octets`` is the length of the file.  The first chunk is read now.  If it is the only one, the
    file is closed now; otherwise the ``close`` of the returned iterable closes it.  After an
    exception the file is open.

    :raises UnreadableContents: the file is compressed, and the start of it cannot be decompressed.
    :raises MessageChanged: the file has become shorter.
    :raises OSError: the file cannot be read.
    """
    size = min(octets, CHUNK)
    first = read_part(fd, size, 0)
    if first is None:
        first = await run(_read, fd, size, 0)
    compression = compression_of(first)
    if compression is not None:
        file = DecompressedFile(fd, compression)
        first = await run(file.read)
        if not file.is_at_end:
            return _OpenBody(fd, _decompressed_chunks(file, first, run))
    elif octets > CHUNK:
        return _OpenBody(fd, _stored_chunks(fd, octets, first, run))
    close(fd)
    return (first,)


class _OpenBody:
    """The chunks of an open file."""

    # Not a generator: closing one that was never started would not close the file.

    def __init__(self, fd: int, chunks: Iterator[Chunk]) -> None:
        self._fd = fd
        self._chunks = chunks

    def __iter__(self) -> Iterator[Chunk]:
        return self._chunks

    def close(self) -> None:
        """Close the file; not while a chunk is being read."""
        close(self._fd)


def _stored_chunks(fd: int, octets: int, first: bytes, run: RunInThread) -> Iterator[Chunk]:
    yield first
    for offset in range(len(first), octets, CHUNK):
        size = min(CHUNK, octets - offset)
        yield read_part(fd, size, offset) or run(_read, fd, size, offset)


def _decompressed_chunks(file: DecompressedFile, first: bytes, run: RunInThread) -> Iterator[Chunk]:
    yield first
    while not file.is_at_end:
        yield run(_decompress, file)


def _decompress(file: DecompressedFile) -> bytes:
    try:
        return file.read()
    except UnreadableContents as error:
        # It could be decompressed when it was counted.
        raise MessageChanged from error


def _read(fd: int, octets: int, offset: int) -> bytes:
    try:
        chunk = os.pread(fd, octets, offset)
    except OSError as error:
        raise explain_file(error, fd) from error
    if len(chunk) < octets:
        raise MessageChanged from ValueError("its file has become shorter")
    return chunk
