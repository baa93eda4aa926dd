"""The octets of a large object, which are read as fast as a client takes them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from uuid import UUID

from twisted.internet.defer import Deferred

from popserv.maildrops.sql.bucket import Bucket, next_piece
from popserv.maildrops.sql.digests import digest_of, new_digest
from popserv.maildrops.sql.object_errors import ObjectDamaged, ObjectStoreUnavailable
from popserv.messages.framing import Chunk

CHUNK = 1 << 16
"""The maximum octets of a chunk."""


class ObjectReader:
    """Reads an object of ``size`` octets from the end of its ``start`` on; it blocks.

    A stream that breaks is opened again where it was, unless nothing has come of it: a server may
    close the connection of a client that pauses.
    """

    def __init__(
        self, bucket: Bucket, key: UUID, size: int, digest: bytes | None, start: bytes
    ) -> None:
        self._bucket = bucket
        self._key = key
        self._size = size
        self._digest = digest
        self._hash = new_digest()
        self._hash.update(start)
        self._returned = self._received = len(start)
        self._pieces: list[bytes] = []
        self._stream: Iterator[bytes] | None = None

    def read(self) -> bytes:
        """Return the next ``CHUNK`` octets, or the last ones if they are what was stored.

        :raises ObjectDamaged: they are not.
        :raises ObjectMissing: the object was deleted.
        :raises ObjectStoreUnavailable: they cannot be read.
        """
        end = min(self._returned + CHUNK, self._size)
        while self._received < end:
            piece = self._next_piece()
            self._received += len(piece)
            self._pieces.append(piece)
        octets = b"".join(self._pieces)
        chunk = octets[: end - self._returned]
        self._pieces = [octets[len(chunk) :]]
        self._returned = end
        self._hash.update(chunk)
        if end == self._size:
            self._stream = None
            _check_digest(self._key, self._hash.digest(), self._digest)
        return chunk

    def _next_piece(self) -> bytes:
        while True:
            is_new = self._stream is None
            if self._stream is None:
                self._stream = self._bucket.open_stream(self._key, self._received, self._size)
            try:
                piece = next_piece(self._key, self._stream)
            except ObjectStoreUnavailable:
                self._stream = None
                if is_new:
                    raise
                continue
            if not piece:
                raise ObjectDamaged(self._key, f"it ends after {self._received} octets")
            return piece


def read_whole(bucket: Bucket, key: UUID, size: int, digest: bytes | None) -> bytes:
    """Return all octets of an object of ``size`` octets; it blocks.

    :raises ObjectDamaged: they are not what was stored.
    :raises ObjectMissing: there is no such object.
    :raises ObjectStoreUnavailable: they cannot be read.
    """
    octets = bucket.get(key, size, size)
    _check_digest(key, digest_of(octets), digest)
    return octets


def _check_digest(key: UUID, found: bytes, stored: bytes | None) -> None:
    if stored is not None and found != stored:
        raise ObjectDamaged(key, "it has other octets than were stored")


class ObjectBody:
    """The chunks of an object: of its start, and then those of a reader, one read in advance.

    ``call`` calls a function in a thread.  Nothing is read before the first chunk after the start
    is wanted, so that TOP of a large message does not read it.
    """

    def __init__(
        self,
        start: bytes,
        size: int,
        reader: ObjectReader,
        call: Callable[..., Awaitable[Any]],
    ) -> None:
        self._start = start
        self._size = size
        self._reader = reader
        self._call = call
        self._ahead: Deferred[bytes] | None = None

    def __iter__(self) -> Iterator[Chunk]:
        yield from slices(self._start)
        for end in range(len(self._start) + CHUNK, self._size + CHUNK, CHUNK):
            yield self._next(is_last=end >= self._size)

    async def _next(self, *, is_last: bool) -> bytes:
        chunk = await (self._ahead or self._read())
        if not is_last:
            self._ahead = self._read()
        return chunk

    def _read(self) -> Deferred[bytes]:
        return Deferred.fromCoroutine(self._read_chunk())

    async def _read_chunk(self) -> bytes:
        chunk: bytes = await self._call(self._reader.read)
        return chunk

    def close(self) -> None:
        """Read no more; not while a chunk is awaited."""
        if self._ahead is not None:
            # Nobody will learn how it has ended.
            self._ahead.addErrback(lambda failure: None)


def slices(octets: bytes) -> Iterator[bytes]:
    """Yield octets in chunks."""
    for at in range(0, len(octets), CHUNK):
        yield octets[at : at + CHUNK]
