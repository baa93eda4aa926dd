"""What all kinds of object stores do."""

import os
from hashlib import sha256
from io import BytesIO
from uuid import UUID

from popserv.maildrops.sql import bucket
from popserv.maildrops.sql.object_body import CHUNK, read_whole
from popserv.maildrops.sql.object_errors import ObjectDamaged, ObjectMissing
from popserv.maildrops.sql.objects import MAX_WHOLE, START
from popserv.runtime.threads import BoundedThreadPool

KEY = UUID("019ac0de-0000-7000-8000-0000000000ab")
OTHER = UUID("019ac0de-0000-7000-8000-0000000000cd")

run = BoundedThreadPool("tests-objects", 8).run


def digest_of(octets):
    """Return the digest of octets."""
    return sha256(octets).digest()


async def read(body):
    """Return all octets of a body, and close it."""
    chunks = []
    try:
        for chunk in body:
            chunks.append(chunk if isinstance(chunk, bytes) else await chunk)
    finally:
        getattr(body, "close", lambda: None)()
    return b"".join(chunks)


class ObjectsContract:
    """What every kind of store does; a subclass has ``make_store``."""

    part = 1 << 20
    """The octets of a part of a large object."""

    def setUp(self):
        """Make a store."""
        self.store = self.make_store()

    async def keys(self, age=0.0):
        """Return the keys in the store."""
        return [key async for page in self.store.list_keys(age) for key in page]

    async def test_small(self):
        """A small object is read in one chunk, as it was stored; its digest is returned."""
        for octets in (b"", b"a", b"Subject: x\n\nhello\n"):
            self.assertEqual(await self.store.put(KEY, octets), digest_of(octets))
            body = await self.store.get(KEY, len(octets), digest_of(octets))
            self.assertEqual(await read(body), octets)

    async def test_files(self):
        """A file is stored from its position to its end, in one part or in several."""
        self.patch(bucket, "PART", self.part)
        for size in (0, 100, bucket.PART, bucket.PART + 1, 2 * bucket.PART + 100):
            octets = os.urandom(size)
            file = BytesIO(b"before" + octets)
            file.seek(6)
            digest = await self.store.put(KEY, file)
            self.assertEqual(digest, digest_of(octets))
            whole = await run(read_whole, self.store._bucket, KEY, size, digest)
            self.assertEqual(whole, octets)

    async def test_missing(self):
        """A missing object is told from a store that does not answer, and logged once."""
        for size in (10, 0, 10):
            with self.assertRaises(ObjectMissing) as caught:
                await self.store.get(KEY, size)
        self.assertEqual(caught.exception.code, b"SYS/PERM")
        self.assertIsNone(caught.exception.__cause__)

    async def test_looked_for(self):
        """An object is there if it has its size, however small it is."""
        for octets in (b"1", b"12345"):
            await self.store.put(KEY, octets)
            await self.store.look(KEY, len(octets))
            with self.assertRaises(ObjectDamaged):
                await self.store.look(KEY, len(octets) + 1)
        with self.assertRaises(ObjectMissing):
            await self.store.look(OTHER, 1)

    async def test_other_size(self):
        """An object of another size is not returned at all."""
        await self.store.put(KEY, b"12345")
        for size in (0, 4, 6, 100):
            with self.assertRaises(ObjectDamaged):
                await self.store.get(KEY, size)

    async def test_deleted(self):
        """Objects are deleted; those that are missing count as deleted."""
        await self.store.put(KEY, b"1")
        await self.store.put(OTHER, b"2")
        await self.store.delete([])
        await self.store.delete([OTHER, UUID(int=1), KEY])
        self.assertEqual(await self.keys(), [])

    async def test_listed(self):
        """The keys of objects that are old enough are listed, in pages."""
        self.patch(bucket, "PAGE", 2)
        stored = {UUID(int=number) for number in range(5)}
        for key in stored:
            await self.store.put(key, b"1")
        self.assertEqual(set(await self.keys(-10)), stored)
        self.assertEqual(await self.keys(3600), [])

    async def test_large(self):
        """An object of any size is read in chunks of at most 64 KiB, as it was stored."""
        for size in (MAX_WHOLE, MAX_WHOLE + 1, 3 * CHUNK + START, 10 * CHUNK + START + 1):
            octets = os.urandom(size)
            digest = await self.store.put(KEY, octets)
            chunks = []
            for chunk in await self.store.get(KEY, size, digest):
                chunks.append(chunk if isinstance(chunk, bytes) else await chunk)
            self.assertEqual(b"".join(chunks), octets)
            self.assertLessEqual(max(map(len, chunks)), CHUNK)

    async def test_other_octets(self):
        """The last octets of an object are not returned if its digest is another one."""
        octets = bytes(MAX_WHOLE + 1)
        await self.store.put(KEY, octets[:100])
        with self.assertRaises(ObjectDamaged):
            await self.store.get(KEY, 100, bytes(32))
        await self.store.put(KEY, octets)
        chunks = []
        with self.assertRaises(ObjectDamaged):
            for chunk in await self.store.get(KEY, len(octets), bytes(32)):
                chunks.append(chunk if isinstance(chunk, bytes) else await chunk)
        self.assertEqual(sum(map(len, chunks)), MAX_WHOLE)

    async def test_shortened(self):
        """An object that becomes shorter while it is read fails; no chunk is short."""
        size = START + 3 * CHUNK
        await self.store.put(KEY, bytes(size))
        body = await self.store.get(KEY, size)
        await self.store.put(KEY, bytes(size - CHUNK - 1))
        chunks = []
        with self.assertRaises(ObjectDamaged):
            for chunk in body:
                chunks.append(chunk if isinstance(chunk, bytes) else await chunk)
        self.assertEqual(sum(map(len, chunks)), START + CHUNK)
        body.close()
