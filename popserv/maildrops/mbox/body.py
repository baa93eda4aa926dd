"""The octets of a large message in an mbox file, in chunks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from popserv.errors import MessageChanged
from popserv.maildrops.mbox.quoting import Unquoter
from popserv.maildrops.page_cache import CHUNK, read_part
from popserv.maildrops.path_problems import explain_file
from popserv.messages.framing import Chunk
from popserv.runtime.closing import close
from popserv.runtime.threads import RunInThread


class Body:
    """The chunks of what an open file has from ``start`` to ``end``, more than one.

    The file is duplicated, so that the session can close it meanwhile; :meth:`close` closes the
    duplicate.  ``check`` is called in a thread when all has been read, before the last chunk is
    returned; it raises an exception if the file may have had other octets there.
    """

    def __init__(
        self,
        fd: int,
        start: int,
        end: int,
        *,
        is_quoted: bool,
        run: RunInThread,
        check: Callable[[int], None],
    ) -> None:
        self._fd = os.dup(fd)
        self._offsets = range(start, end, CHUNK)
        self._end = end
        self._unquoter = Unquoter() if is_quoted else None
        self._run = run
        self._check = check

    def __iter__(self) -> Iterator[Chunk]:
        for offset in self._offsets[:-1]:
            chunk = read_part(self._fd, CHUNK, offset)
            yield self._run(self._read, offset) if chunk is None else self._unquoted(chunk)
        yield self._run(self._read_last)

    def _unquoted(self, chunk: bytes) -> bytes:
        return chunk if self._unquoter is None else self._unquoter.feed(chunk)

    def _read(self, offset: int) -> bytes:
        size = min(CHUNK, self._end - offset)
        try:
            chunk = os.pread(self._fd, size, offset)
        except OSError as error:
            raise explain_file(error, self._fd) from error
        if len(chunk) < size:
            raise MessageChanged from ValueError("its file has become shorter")
        return self._unquoted(chunk)

    def _read_last(self) -> bytes:
        chunk = self._read(self._offsets[-1])
        try:
            self._check(self._fd)
        except OSError as error:
            raise explain_file(error, self._fd) from error
        return chunk if self._unquoter is None else chunk + self._unquoter.finish()

    def close(self) -> None:
        """Close the duplicate of the file; not while a chunk is being read."""
        close(self._fd)
