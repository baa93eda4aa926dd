"""The octets of an open message file, in chunks, from the page cache or read in a thread."""

from __future__ import annotations

import os
from collections.abc import Iterator

from popserv.errors import MessageChanged
from popserv.maildrops.page_cache import CHUNK, read_part
from popserv.maildrops.path_problems import explain_file
from popserv.messages.framing import Chunk
from popserv.runtime.closing import close
from popserv.runtime.threads import RunInThread


class Body:
    """The chunks of an open file of a known length; :meth:`close` closes it."""

    def __init__(self, fd: int, length: int, run: RunInThread) -> None:
        self._fd = fd
        self._length = length
        self._run = run

    def __iter__(self) -> Iterator[Chunk]:
        for offset in range(0, self._length, CHUNK):
            size = min(CHUNK, self._length - offset)
            yield read_part(self._fd, size, offset) or self._run(self._read, size, offset)

    def _read(self, size: int, offset: int) -> bytes:
        try:
            chunk = os.pread(self._fd, size, offset)
        except OSError as error:
            raise explain_file(error, self._fd) from error
        if len(chunk) < size:
            raise MessageChanged from ValueError("its file has become shorter")
        return chunk

    def close(self) -> None:
        """Close the file; not while a chunk is being read."""
        close(self._fd)
