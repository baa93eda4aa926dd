"""popserv.maildrops.sql.objects: messages in an object store."""

import builtins
import contextlib
import gc
import os
import sys
from pathlib import Path
from unittest import mock
from uuid import UUID

import obstore
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.trial.unittest import SynchronousTestCase, TestCase

from popserv.maildrops.sql import object_body
from popserv.maildrops.sql.object_body import CHUNK, ObjectBody
from popserv.maildrops.sql.object_errors import (
    ObjectDamaged,
    ObjectMissing,
    ObjectStoreUnavailable,
)
from popserv.maildrops.sql.objects import START, ObjectStore
from popserv.maildrops.sql.open_objects import open_objects
from tests.maildrops.maildir.harness import failing
from tests.maildrops.sql.harness import wait_for
from tests.maildrops.sql.object_contract import (
    KEY,
    OTHER,
    ObjectsContract,
    digest_of,
    read,
    run,
)
from tests.maildrops.sql.object_server import ObjectServer, missing, silence, status

LARGE = f"/bucket/mail/ab/{KEY.hex}".encode()
"""The path of the large object."""


def open_files():
    """Return the paths of the files that the process has open."""
    paths = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            paths.append(os.readlink(f"/proc/self/fd/{name}"))
    return paths


class MemoryTests(ObjectsContract, TestCase):
    """Objects in memory, for tests."""

    def make_store(self):
        """Return an empty store."""
        return ObjectStore("memory:///", run=run)

    async def test_missing_told(self):
        """A store that tells which objects are missing deletes the others nevertheless."""
        delete = obstore.delete

        def one_after_the_other(store, paths):
            for path in [paths] if isinstance(paths, str) else paths:
                obstore.head(store, path)
                delete(store, path)

        await self.store.put(KEY, b"1")
        self.patch(obstore, "delete", one_after_the_other)
        await self.store.delete([UUID(int=1), KEY])
        self.assertEqual(await self.keys(), [])

    async def test_fewer_octets(self):
        """Fewer octets than the store has announced are an error, whatever the library does."""
        result = mock.Mock(meta={"size": 5}, range=(0, 5))
        result.bytes().to_bytes.return_value = b"1234"
        self.patch(obstore, "get", lambda store, path: result)
        with self.assertRaises(ObjectDamaged):
            await self.store.get(KEY, 5)


class DirectoryTests(ObjectsContract, TestCase):
    """Objects in a directory."""

    def make_store(self):
        """Return an empty store."""
        self.directory = Path(self.mktemp()).absolute() / "with space"
        self.directory.mkdir(parents=True)
        return ObjectStore(f"file://{str(self.directory).replace(' ', '%20')}", run=run)

    async def test_durable(self):
        """A whole file and its directories are synced before the object counts as stored."""
        synced = []

        def fsync(fd):
            synced.append(os.readlink(f"/proc/self/fd/{fd}"))
            if synced[-1] == unfinished:
                self.assertEqual(os.fstat(fd).st_size, 1)

        self.patch(os, "fsync", fsync)
        file = self.directory / "ab" / KEY.hex
        unfinished = f"{file}#1"
        await self.store.put(KEY, b"1")
        self.assertEqual(synced, [unfinished, str(file.parent), str(self.directory)])
        synced.clear()
        await self.store.put(KEY, b"2")
        self.assertEqual(synced, [unfinished, str(file.parent)])
        synced.clear()
        await self.store.delete([KEY])
        self.assertEqual(synced, [str(file.parent)])
        self.assertEqual(
            [path for path in open_files() if path.startswith(str(self.directory))], []
        )

    async def test_link(self):
        """A link to the directory is followed once, for what is written and what is read."""
        link = self.directory.parent / "link"
        link.symlink_to(self.directory)
        store = ObjectStore(f"file://{link}", run=run)
        link.unlink()
        link.symlink_to(self.mktemp())
        await store.put(KEY, b"12345")
        self.assertEqual(await read(await store.get(KEY, 5)), b"12345")
        await store.delete([KEY])
        self.assertEqual(os.listdir(self.directory / "ab"), [])

    async def test_left(self):
        """What a process has left that was killed while it stored an object is removed with it."""
        await self.store.put(KEY, b"1")
        left = self.directory / "ab" / f"{KEY.hex}#1"
        left.write_bytes(b"half")
        self.assertEqual(await self.keys(), [KEY])
        await self.store.delete([KEY])
        self.assertFalse(left.exists())

    async def test_not_found(self):
        """A file that cannot be made in its directory is an error, and nothing is left."""
        with (
            failing(builtins, "open", FileNotFoundError(2, "No such file or directory")),
            self.assertRaises(ObjectStoreUnavailable),
        ):
            await self.store.put(KEY, b"1")
        with (
            failing(os, "rename", OSError(28, "No space left on device")),
            self.assertRaises(ObjectStoreUnavailable) as full,
        ):
            await self.store.put(KEY, b"1")
        self.assertIn("No space left", str(full.exception))
        self.assertEqual(os.listdir(self.directory / "ab"), [])

    async def test_other_files(self):
        """Files that are no objects are not listed."""
        await self.store.put(KEY, b"1")
        (self.directory / "ab" / OTHER.hex).write_bytes(b"1")
        (self.directory / "README").write_bytes(b"1")
        self.assertEqual(await self.keys(), [KEY])

    async def test_no_directory(self):
        """Nothing is stored in a directory that cannot be written to."""
        (self.directory / "ab").write_bytes(b"")
        with self.assertRaises(ObjectStoreUnavailable):
            await self.store.put(KEY, b"1")


class FaultTests(TestCase):
    """What goes wrong between popserv and an object store."""

    def setUp(self):
        """Start a server with a large and a small object."""
        self.server = ObjectServer(self)
        # Short enough for a test, and long enough that a busy machine is not taken for an outage.
        options = {**self.server.options, "timeout": "60s", "connect_timeout": "60s"}
        self.store = ObjectStore("s3://bucket/mail", options, patience=2.0, run=run)
        self.large = os.urandom(START + 10 * CHUNK + 5)
        self.server.objects[LARGE] = self.large
        self.server.objects[f"/bucket/mail/cd/{OTHER.hex}".encode()] = b"hello"
        self.log = []
        self.patch(
            sys.modules["popserv.maildrops.sql.objects"],
            "_log",
            mock.Mock(
                critical=self.note,
                error=self.note,
                info=self.note,
                spec=("critical", "error", "info"),
            ),
        )

    def note(self, text, **fields):
        """Record a line of the log."""
        self.log.append(text.format(**fields))

    def cut(self, octets):
        """Return a fault: the connection is closed after a number of octets."""
        return lambda request: self.server.send(request, self.large, octets)

    def stop_after(self, octets):
        """Return a fault: after a number of octets nothing more comes."""
        return lambda request: self.server.send(request, self.large, octets, stops=True)

    async def get_large(self, digest=None):
        """Return the large object."""
        return await read(await self.store.get(KEY, len(self.large), digest))

    async def test_put_and_delete(self):
        """Objects are stored by one request each, and deleted by one request together."""
        await self.store.put(UUID(int=1), b"1")
        await self.store.delete([UUID(int=1), OTHER])
        self.assertEqual([method for method, _ in self.server.requests], [b"PUT", b"POST"])
        self.assertEqual(len(self.server.objects), 1)

    async def test_requests(self):
        """A large object is read by two requests, of which the second comes when it is needed."""
        body = await self.store.get(KEY, len(self.large), digest_of(self.large))
        chunks = iter(body)
        octets = next(chunks) + next(chunks)
        self.assertEqual(octets, self.large[:START])
        ranges = [asked for _, asked in self.server.requests]
        self.assertEqual(ranges, [b"bytes=0-%d" % (START - 1)])
        octets += b"".join([await chunk for chunk in chunks])
        self.assertEqual(octets, self.large)
        ranges = [asked for _, asked in self.server.requests]
        self.assertEqual(ranges[1:], [b"bytes=%d-%d" % (START, len(self.large) - 1)])
        body.close()

    async def test_no_ranges(self):
        """Of a server that sends whole objects, no more is read than is needed.

        It is asked for a part of one only once (RFC 9110 section 14.2).
        """
        self.server.has_ranges = False
        for _ in range(2):
            self.assertEqual(await self.get_large(digest_of(self.large)), self.large)
        asked = [asked for _, asked in self.server.requests]
        self.assertEqual(asked, [b"bytes=0-%d" % (START - 1), *[None] * 4])

    async def test_no_ranges_cut(self):
        """A whole object that breaks off is continued where it was."""
        self.server.has_ranges = False
        for cut in (START + 1, START + 2 * CHUNK, START + 5 * CHUNK + 1):
            await self.get_large()
            self.server.faults.extend([self.server.render_get, self.cut(cut), self.cut(cut + 1)])
            self.assertEqual(await self.get_large(digest_of(self.large)), self.large)

    async def test_no_ranges_shorter(self):
        """A whole object that was replaced by a shorter one fails; no chunk is short."""
        self.server.has_ranges = False
        for size in (START - 1, START, START + CHUNK + 1):
            self.server.objects[LARGE] = self.large
            body = await self.store.get(KEY, len(self.large))
            self.server.objects[LARGE] = self.large[:size]
            with self.assertRaises(ObjectDamaged):
                await read(body)

    async def test_repeated(self):
        """Requests are repeated that the store has not served."""
        self.server.faults.extend([status(503), status(500)])
        self.assertEqual(await read(await self.store.get(OTHER, 5)), b"hello")
        self.server.faults.append(status(500))
        await self.store.put(UUID(int=1), b"1")
        self.assertEqual(self.log, [])

    async def test_outage(self):
        """An outage is logged when it begins and when it ends; clients may try again later."""
        self.server.faults.extend([status(503)] * 1000)
        for _ in range(2):
            with self.assertRaises(ObjectStoreUnavailable) as caught:
                await self.store.get(OTHER, 5)
        self.assertEqual(caught.exception.code, b"SYS/TEMP")
        [line] = self.log
        self.assertIn("object store s3://bucket/mail is not available", line)
        self.assertIn("503", str(caught.exception))
        self.assertNotIn("not-to-be-logged", line)
        self.server.faults.clear()
        await self.store.get(OTHER, 5)
        await self.store.get(OTHER, 5)
        self.assertEqual(self.log[1:], ["object store s3://bucket/mail is available again"])

    async def test_silence(self):
        """A store that does not answer is not available."""
        self.server.faults.extend([silence] * 1000)
        store = ObjectStore("s3://bucket/mail", self.server.options, patience=0.5, run=run)
        with self.assertRaises(ObjectStoreUnavailable):
            await store.get(OTHER, 5)
        self.assertIn("object store s3://bucket/mail is not available", self.log[0])

    async def test_parts_after_outage(self):
        """After an outage, the store is asked for parts of large objects as before."""
        self.server.faults.extend([status(503)] * 1000)
        with self.assertRaises(ObjectStoreUnavailable):
            await self.get_large()
        self.server.faults.clear()
        self.server.requests.clear()
        self.assertEqual(await self.get_large(), self.large)
        self.assertNotIn(None, [asked for _, asked in self.server.requests])

    async def test_missing_after_outage(self):
        """A store that says that an object is missing is available; each key is named once."""
        self.server.faults.extend([status(503)] * 1000)
        with self.assertRaises(ObjectStoreUnavailable):
            await self.store.get(OTHER, 5)
        self.server.faults.clear()
        for _ in range(2):
            with self.assertRaises(ObjectMissing):
                await self.store.get(UUID(int=1), 5)
        self.assertEqual(self.log[1], "object store s3://bucket/mail is available again")
        self.assertIn(UUID(int=1).hex, self.log[2])
        self.assertEqual(len(self.log), 3)

    async def test_named(self):
        """At most 1,000 objects are named in the log, however many are missing."""
        self.patch(sys.modules["popserv.maildrops.sql.objects"], "_MAX_NAMED", 2)
        for number in (1, 2, 2, 3):
            with self.assertRaises(ObjectMissing):
                await self.store.get(UUID(int=number), 5)
        self.assertEqual(len(self.log), 2)
        for number, line in enumerate(self.log, 1):
            self.assertIn(UUID(int=number).hex, line)

    async def test_one_request(self):
        """An object of at most 256 KiB is read by one request."""
        for size, requests in ((256 << 10, 1), ((256 << 10) + 1, 2)):
            self.server.objects[LARGE] = bytes(size)
            self.server.requests.clear()
            self.assertEqual(await read(await self.store.get(KEY, size)), bytes(size))
            self.assertEqual(len(self.server.requests), requests)

    async def test_refused(self):
        """A store that refuses the keys of the configuration is not available."""
        self.server.faults.append(status(403, b"<Error><Code>InvalidAccessKeyId</Code></Error>"))
        with self.assertRaises(ObjectStoreUnavailable):
            await self.store.put(UUID(int=1), b"1")
        self.assertIn("InvalidAccessKeyId", self.log[0])

    async def test_listing_unavailable(self):
        """A listing that fails says so."""
        self.server.faults.append(status(403))
        with self.assertRaises(ObjectStoreUnavailable):
            [page async for page in self.store.list_keys(0)]

    async def test_cut(self):
        """A stream that breaks off is continued where it was, if anything came of it."""
        for cut in (1, CHUNK, 5 * CHUNK + 1):
            self.server.faults.extend([self.server.render_get, self.cut(cut), self.cut(cut)])
            self.assertEqual(await self.get_large(digest_of(self.large)), self.large)

    async def test_slow(self):
        """A stream that stops is continued where it was, if anything came of it in time."""
        stopped = [self.stop_after(octets) for octets in (CHUNK, 3 * CHUNK + 1)]
        options = {**self.server.options, "timeout": "1s"}
        self.store = ObjectStore("s3://bucket/mail", options, patience=20.0, run=run)
        self.server.faults.extend([self.server.render_get, *stopped])
        self.assertEqual(await self.get_large(digest_of(self.large)), self.large)
        self.assertFalse(self.server.faults)

    async def test_cut_for_good(self):
        """A stream of which nothing more comes fails; no chunk is short."""
        for faults in ([self.cut(CHUNK)] + [status(503)] * 1000, [self.cut(0)] * 1000):
            body = await self.store.get(KEY, len(self.large))
            self.server.faults.extend(faults)
            chunks = []
            with self.assertRaises(ObjectStoreUnavailable):
                for chunk in body:
                    chunks.append(chunk if isinstance(chunk, bytes) else await chunk)
            body.close()
            self.server.faults.clear()
            self.assertEqual(b"".join(chunks), self.large[: CHUNK * len(chunks)])

    async def test_deleted_meanwhile(self):
        """An object that is deleted while it is read fails."""
        body = await self.store.get(KEY, len(self.large))
        self.server.faults.append(missing)
        with self.assertRaises(ObjectMissing):
            await read(body)

    async def test_other_octets(self):
        """An object that is replaced while it is read fails before its last octets."""
        body = await self.store.get(KEY, len(self.large), digest_of(self.large))
        changed = self.large[:-1] + bytes([self.large[-1] ^ 1])
        self.server.objects[LARGE] = changed
        with self.assertRaises(ObjectDamaged) as caught:
            await read(body)
        self.assertIn("other octets", self.log[0])
        self.assertEqual(str(caught.exception), f"{KEY}: it has other octets than were stored")

    async def test_read_in_advance(self):
        """One chunk is read in advance, and nothing while the client reads nothing."""
        size = 100 << 20
        self.server.objects[LARGE] = bytes(size)
        body = await self.store.get(KEY, size)
        chunks = iter(body)
        for _ in range(START // CHUNK):
            next(chunks)
        await next(chunks)
        await wait_for(lambda: self.server.is_paused, "the server to be paused")
        self.assertLess(self.server.sent, size // 4)
        body.close()

    async def test_closed(self):
        """A body that is closed while a chunk is read in advance ignores how that ends."""
        body = await self.store.get(KEY, len(self.large))
        body.close()
        chunks = iter(body)
        for _ in range(START // CHUNK):
            next(chunks)
        self.server.faults.append(self.cut(CHUNK))
        self.server.faults.extend([status(503)] * 1000)
        await next(chunks)
        body.close()
        await wait_for(lambda: self.log, "the outage")


class ProbeTests(TestCase):
    """What is wrong with an object store, for ``popserv doctor``."""

    async def probe(self, *methods):
        """Return what is found if methods of the bucket are refused."""
        store = ObjectStore("memory:///", run=run)

        def refuse(*arguments):
            raise ObjectStoreUnavailable("denied")

        for method in methods:
            self.patch(store._bucket, method, refuse)
        return await store.probe()

    async def test_good(self):
        """Nothing is wrong with one that works, and nothing is left in it."""
        store = ObjectStore("memory:///")
        self.assertEqual(await store.probe(), "")
        self.assertEqual([page async for page in store.list_keys(-10) if page], [])

    async def test_refused(self):
        """All that is refused is told, but nothing of an object that could not be stored."""
        for methods, problem in (
            (("put", "get", "delete"), "an object cannot be stored: denied"),
            (("get",), "an object cannot be read: denied"),
            (("delete",), "an object cannot be deleted: denied"),
            (("list_pages",), "an object cannot be listed: denied"),
            (
                ("get", "delete"),
                "an object cannot be read: denied; an object cannot be deleted: denied",
            ),
        ):
            self.assertEqual(await self.probe(*methods), problem)


class BodyTests(SynchronousTestCase):
    """The chunks of a large object."""

    @given(st.integers(1, 5 * CHUNK), st.integers(1, 5 * CHUNK))
    @settings(max_examples=50)
    def test_chunks(self, start, rest):
        """There are as many chunks as are read, and none is longer than 64 KiB."""
        octets = bytes(range(256)) * ((start + rest) // 256 + 1)
        octets = octets[: start + rest]
        reader = mock.Mock(spec=object_body.ObjectReader)
        reader.read.side_effect = [
            octets[at : at + CHUNK] for at in range(start, start + rest, CHUNK)
        ]
        body = ObjectBody(octets[:start], start + rest, reader, maybeDeferred)
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(read(body))), octets)
        self.assertEqual(reader.read.call_count, -(-rest // CHUNK))

    def test_closed(self):
        """An error of a chunk that nobody wants any more is not logged."""
        reader = mock.Mock(spec=object_body.ObjectReader)
        reader.read.side_effect = [bytes(CHUNK), ZeroDivisionError()]
        body = ObjectBody(b"", 2 * CHUNK, reader, maybeDeferred)
        self.successResultOf(Deferred.fromCoroutine(next(iter(body))))
        self.assertEqual(reader.read.call_count, 2)
        body.close()
        del body
        gc.collect()
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_advance(self):
        """One chunk is read in advance, once the first of those is wanted that must be read."""
        reader = mock.Mock(spec=object_body.ObjectReader)
        reader.read.return_value = bytes(CHUNK)
        _, *chunks = ObjectBody(bytes(CHUNK), 4 * CHUNK, reader, maybeDeferred)
        self.assertEqual(reader.read.call_count, 0)
        for chunk, count in zip(chunks, (2, 3, 3), strict=True):
            self.successResultOf(Deferred.fromCoroutine(chunk))
            self.assertEqual(reader.read.call_count, count)


class OpenTests(SynchronousTestCase):
    """Object stores of a configuration."""

    def test_opened(self):
        """Nothing is asked when a store is opened, and no thread starts."""
        threads = len(os.listdir("/proc/self/task"))
        options = {"access_key_id": "a", "secret_access_key": "secret", "timeout": "3s"}
        store = open_objects("s3://bucket/prefix", options, 10)
        self.assertIsInstance(store, ObjectStore)
        self.assertNotIn("secret", repr(vars(store)))
        self.assertEqual(len(os.listdir("/proc/self/task")), threads)
        open_objects("gs://bucket/prefix", {"skip_signature": "true"}, 10)
        open_objects("az://container/prefix", {"account_name": "a", "skip_signature": "true"}, 10)

    def test_invalid(self):
        """An invalid URL or option is an error that has no secret."""
        for url, options, problem in (
            ("http://host/path", {}, "not a URL of an object store; use one of s3:, gs:"),
            ("/path", {}, "not a URL of an object store"),
            ("s3://bucket", {"nonsense": "secret"}, "nonsense"),
            ("s3://bucket", {"timeout": "long"}, '"long"'),
            ("gs://bucket", {"service_account_key": "secret"}, "gs://bucket: "),
            ("file:///nowhere/at/all", {}, "/nowhere/at/all"),
            ("memory:///", {"region": "x"}, "has no options; remove region"),
        ):
            with self.subTest(url=url, options=options):
                with self.assertRaises(ValueError) as caught:
                    open_objects(url, options, 10)
                self.assertIn(problem, str(caught.exception))
                self.assertNotIn("secret", str(caught.exception))

    def test_no_library(self):
        """Without obstore, the error says how to install it."""
        modules = {"obstore": None, "popserv.maildrops.sql.objects": None}
        with mock.patch.dict(sys.modules, modules), self.assertRaises(ImportError) as caught:
            open_objects("memory:///", {}, 10)
        self.assertIn("pip install", str(caught.exception))
        self.assertIn("obstore", str(caught.exception))
