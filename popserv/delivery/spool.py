"""A message while it is received: in memory as long as it is small, then in a temporary file."""

from __future__ import annotations

from io import BytesIO
from tempfile import TemporaryFile, gettempdir
from typing import BinaryIO

from popserv.maildrops.spooling import MAX_IN_MEMORY, discard
from popserv.runtime.threads import RunInThread

_SMALL = 1 << 12
"""The octets up to which pieces are joined."""


class Spool:
    """The octets of a message; ``run`` calls functions in threads.

    :ivar octets: the octets that were added.
    """

    def __init__(self, run: RunInThread) -> None:
        self.octets = 0
        self._run = run
        self._pieces: list[bytes] = []
        self._in_memory = 0
        self._file: BinaryIO | None = None

    def add(self, piece: bytes) -> bool:
        """Add octets; return whether :meth:`flush` must be called before more are added."""
        if self._pieces and len(self._pieces[-1]) + len(piece) <= _SMALL:
            # Each object needs some memory beside its octets.
            self._pieces[-1] += piece
        else:
            self._pieces.append(piece)
        self.octets += len(piece)
        self._in_memory += len(piece)
        return self._in_memory > MAX_IN_MEMORY

    async def flush(self) -> None:
        """Write what is in memory to a temporary file.

        :raises OSError: it cannot be written; the error has the directory.
        """
        pieces, self._pieces, self._in_memory = self._pieces, [], 0
        await self._run(self._write, pieces)

    def _write(self, pieces: list[bytes]) -> None:
        try:
            if self._file is None:
                self._file = TemporaryFile()  # noqa: SIM115 (close() closes it)
            self._file.writelines(pieces)
            self._file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, gettempdir()) from error

    async def finish(self) -> BinaryIO:
        """Return a file with all octets, which :meth:`close` closes.

        :raises OSError: as :meth:`flush`.
        """
        if self._file is None:
            self._file = BytesIO(b"".join(self._pieces))
            self._pieces = []
        elif self._pieces:
            await self.flush()
        return self._file

    def close(self) -> None:
        """Drop the message."""
        self._pieces = []
        if self._file is not None:
            discard(self._file)
