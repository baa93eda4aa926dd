"""popserv.maildrops.sql.bucket: what the library is asked for; test_objects has what it does."""

from datetime import timedelta
from io import BytesIO
from unittest import mock
from uuid import UUID

import obstore
from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.sql import bucket
from popserv.maildrops.sql.bucket import open_bucket
from popserv.maildrops.sql.object_errors import ObjectDamaged

MIB = 1 << 20


class PatienceTests(SynchronousTestCase):
    """How long the library tries."""

    def limits(self, **options):
        """Return the limits of a store with these options, for a patience of ten seconds."""
        with mock.patch.object(bucket, "from_url") as opened:
            open_bucket("s3://bucket", options, 10.0)
        client, retry = (
            opened.call_args.kwargs[name] for name in ("client_options", "retry_config")
        )
        return {**client, **retry, **retry["backoff"]}

    def test_patience(self):
        """No call takes longer than the patience: the last try ends in time, however it goes."""
        limits = self.limits()
        last_start = limits["retry_timeout"] + limits["max_backoff"]
        self.assertLessEqual(last_start + limits["timeout"], timedelta(seconds=10))
        self.assertLessEqual(limits["connect_timeout"], limits["timeout"])
        self.assertLessEqual(limits["init_backoff"], limits["max_backoff"])
        for name in ("connect_timeout", "timeout", "retry_timeout", "init_backoff"):
            self.assertGreater(limits[name], timedelta(0), name)

    def test_options(self):
        """Options go before these limits."""
        limits = self.limits(timeout="3s", region="x")
        self.assertEqual(limits["timeout"], "3s")
        self.assertNotIn("region", limits)


class PartsTests(SynchronousTestCase):
    """How much of a file is in memory."""

    def test_parts(self):
        """A file is stored in parts of 5 MiB, the least that S3 permits, one after the other."""
        stored = []

        def put(store, path, data, **options):
            sizes = [len(data)] if isinstance(data, bytes) else [len(part) for part in data]
            stored.append((sizes, options))

        self.patch(obstore, "put", put)
        opened = open_bucket("memory:///", {}, 10.0)
        for size in (3, 5 * MIB, 11 * MIB):
            opened.put(UUID(int=1), BytesIO(bytes(size)))
        self.assertEqual([sizes for sizes, _ in stored], [[3], [5 * MIB], [5 * MIB, 5 * MIB, MIB]])
        for _, options in stored:
            self.assertEqual(options, {"chunk_size": 5 * MIB, "max_concurrency": 1})


class StreamTests(SynchronousTestCase):
    """A server that sends a whole object instead of a part of it (RFC 9110 section 14.2)."""

    def test_skipped(self):
        """What comes before the part is left out, wherever pieces end, and no piece is empty."""
        for pieces in ([b"abcdef"], [b"ab", b"cdef"], [b"abc", b"def"], [b"a", b"b", b"cd", b"ef"]):
            result = mock.Mock(range=(0, 6))
            result.stream.return_value = iter(pieces)
            self.patch(obstore, "get", mock.Mock(return_value=result))
            found = list(open_bucket("memory:///", {}, 10.0).open_stream(UUID(int=1), 3, 6))
            self.assertEqual(b"".join(found), b"def")
            self.assertNotIn(b"", found)

    def test_empty_pieces(self):
        """A piece without octets, as HTTP/2 may have, is left out: it is the end of a stream."""
        result = mock.Mock(range=(0, 4))
        result.stream = lambda min_chunk_size: iter(
            [piece for piece in (b"ab", b"", b"cd") if len(piece) >= min_chunk_size]
        )
        self.patch(obstore, "get", lambda *_, **__: result)
        stream = open_bucket("memory:///", {}, 10.0).open_stream(UUID(int=1), 0, 4)
        self.assertEqual([*stream], [b"ab", b"cd"])

    def test_nothing(self):
        """Nothing in place of the first octet is an error."""
        result = mock.Mock(meta={"size": 5}, range=(0, 5))
        result.stream.return_value = iter(())
        self.patch(obstore, "get", mock.Mock(return_value=result))
        with self.assertRaises(ObjectDamaged):
            open_bucket("memory:///", {}, 10.0).get(UUID(int=1), 5, 1)
