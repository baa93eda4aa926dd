"""The object store: messages that are too large for the database, each under a key of its own.

Of a large message, its first octets are read when it is opened, and the others as fast as the
client takes them.  The last octets of a message are not returned unless all of them are what was
stored, so that no client takes a damaged message for a whole one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any, TypeVar
from uuid import UUID, uuid4

from twisted.logger import Logger

from popserv.maildrops.sql.bucket import Readable, open_bucket
from popserv.maildrops.sql.object_body import ObjectBody, ObjectReader, read_whole, slices
from popserv.maildrops.sql.object_errors import ObjectStoreUnavailable, ObjectUnreadable
from popserv.messages.framing import Chunk
from popserv.runtime.threads import BoundedThreadPool, RunInThread

_log = Logger()

T = TypeVar("T")

MAX_WHOLE = 256 << 10
"""The octets up to which an object is read by one request."""

START = 128 << 10
"""The octets of a larger one that are read at first; TOP needs no more of most messages."""

THREADS = 16
"""The maximum number of requests at a time."""

PATIENCE = 10.0
"""The seconds after which a request has failed."""

_MAX_NAMED = 1000


class ObjectStore:
    """The objects at a URL.

    ``url`` is ``s3://BUCKET/PREFIX``, ``gs://BUCKET/PREFIX``, ``az://CONTAINER/PREFIX``,
    ``file:///DIRECTORY`` or, for tests, ``memory:///``.
    ``options`` are those of the library obstore for this kind of store and its HTTP client, such as
    ``access_key_id``, ``secret_access_key``, ``endpoint`` and ``region`` of S3.  ``run`` calls a
    function in a thread; by default a thread pool of this store does.

    An object is stored, or is not, whole; it is durable when :meth:`put` has ended.  Objects never
    change.  A large one that was not stored may leave parts of it in the store.

    :raises ValueError: the URL or an option is invalid.
    """

    def __init__(
        self,
        url: str,
        options: Mapping[str, str] | None = None,
        *,
        patience: float = PATIENCE,
        run: RunInThread | None = None,
    ) -> None:
        self._bucket = open_bucket(url, options or {}, patience)
        self._run = run or BoundedThreadPool("popserv-objects", THREADS).run
        self._url = url
        self._is_available = True
        self._named: set[UUID] = set()

    async def put(self, key: UUID, data: bytes | Readable) -> bytes:
        """Store an object, and return the digest of its octets.

        ``data`` are the octets, or a file that is read from its position to its end.  A file is
        stored in parts of 5 MiB, two of which are in memory.

        :raises ObjectStoreUnavailable: it is not stored, or may not be.
        """
        return await self._call(self._bucket.put, key, data)

    async def get(self, key: UUID, size: int, digest: bytes | None = None) -> Iterable[Chunk]:
        """Return the octets of an object, as :meth:`popserv.interfaces.IMailbox.open` does.

        ``size`` is their number, ``digest`` their digest if it is known.

        :raises ObjectMissing: there is no such object.
        :raises ObjectDamaged: it has another size or digest; a chunk may raise it as well.
        :raises ObjectStoreUnavailable: it cannot be read now; a chunk may raise it as well.
        """
        if size <= MAX_WHOLE:
            return tuple(slices(await self._call(read_whole, self._bucket, key, size, digest)))
        start = await self._call(self._bucket.get, key, size, START)
        reader = ObjectReader(self._bucket, key, size, digest, start)
        return ObjectBody(start, size, reader, self._call)

    async def look(self, key: UUID, size: int) -> None:
        """Look whether an object has this number of octets, without a line in the log.

        :raises ObjectMissing: there is no such object.
        :raises ObjectDamaged: it has another size.
        :raises ObjectStoreUnavailable: it cannot be read now.
        """
        await self._run(self._bucket.get, key, size, 1)

    async def probe(self) -> str:
        """Store an object, read and delete it; return what is wrong, or nothing.

        Nothing is logged.  If this process is killed, the object may stay until a full collection.
        """
        return await self._run(self._probe)

    def _probe(self) -> str:
        key, octets = uuid4(), b"popserv doctor"
        steps: list[tuple[str, Callable[[], object]]] = [
            ("stored", lambda: self._bucket.put(key, octets)),
            ("read", lambda: self._bucket.get(key, len(octets), len(octets))),
            ("deleted", lambda: self._bucket.delete([key])),
            ("listed", lambda: next(self._bucket.list_pages(), None)),
        ]
        problems = []
        for step, function in steps:
            try:
                function()
            except (ObjectStoreUnavailable, ObjectUnreadable) as error:
                problems.append(f"an object cannot be {step}: {error.problem}")
                if step == "stored":
                    break
        return "; ".join(problems)

    async def delete(self, keys: Collection[UUID]) -> None:
        """Delete objects; those that are missing count as deleted.

        :raises ObjectStoreUnavailable: some of them are not deleted, or may not be.
        """
        await self._call(self._bucket.delete, keys)

    async def list_keys(self, age: float) -> AsyncIterator[list[UUID]]:
        """Yield the keys of objects that were stored ``age`` seconds ago or before, in pages.

        The clocks of the object store and of this machine tell the age.

        :raises ObjectStoreUnavailable: not all of them can be listed.
        """
        before = datetime.now(timezone.utc) - timedelta(seconds=age)
        pages = self._bucket.list_pages()
        while (page := await self._call(next, pages, None)) is not None:
            yield [key for key, stored in page if stored <= before]

    async def _call(self, function: Callable[..., T], *args: Any) -> T:
        try:
            result: T = await self._run(function, *args)
        except ObjectStoreUnavailable as error:
            self._note_outage(error.problem)
            raise
        except ObjectUnreadable as error:
            self._note_answer()
            self._name(error)
            raise
        self._note_answer()
        return result

    def _note_outage(self, problem: str) -> None:
        if self._is_available:
            self._is_available = False
            _log.critical(
                "object store {url} is not available; large messages can be neither retrieved nor "
                "delivered until it is: {problem}",
                url=self._url,
                problem=problem,
            )

    def _note_answer(self) -> None:
        if not self._is_available:
            self._is_available = True
            _log.info("object store {url} is available again", url=self._url)

    def _name(self, error: ObjectUnreadable) -> None:
        if error.key not in self._named and len(self._named) < _MAX_NAMED:
            self._named.add(error.key)
            _log.error(
                "object store {url}: object {key} cannot be read, restore it from a backup: "
                "{problem}",
                url=self._url,
                key=error.key.hex,
                problem=error.problem,
            )
