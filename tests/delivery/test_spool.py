"""popserv.delivery.spool: messages in memory and in temporary files."""

import errno
import tempfile
import tracemalloc
from sys import getrefcount
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from popserv.delivery import spool as spool_module
from popserv.delivery.spool import Spool
from popserv.maildrops.spooling import MAX_IN_MEMORY
from tests.maildrops.maildir.harness import result, run_inline


class SpoolTests(SynchronousTestCase):
    """Spool."""

    def fill(self, *pieces):
        """Return a spool with these pieces."""
        spool = Spool(run_inline)
        for piece in pieces:
            if spool.add(piece):
                result(spool.flush())
        self.assertEqual(spool.octets, sum(map(len, pieces)))
        return spool

    def test_small(self):
        """A message that fits is never written."""
        spool = self.fill(b"a" * MAX_IN_MEMORY)
        with mock.patch.object(spool_module, "TemporaryFile", side_effect=AssertionError):
            file = result(spool.finish())
        self.assertEqual(file.read(), b"a" * MAX_IN_MEMORY)
        spool.close()

    def test_large(self):
        """A larger one is in a file, which close removes."""
        for pieces in ([b"a" * MAX_IN_MEMORY, b"bc"], [b"a" * MAX_IN_MEMORY, b"b", b"c"]):
            spool = self.fill(*pieces)
            file = result(spool.finish())
            file.seek(0)
            self.assertEqual(file.read(), b"".join(pieces))
            spool.close()
            self.assertTrue(file.closed)

    def test_limit(self):
        """As many octets are kept in memory after a part was written as before."""
        spool = Spool(run_inline)
        for _ in range(2):
            self.assertFalse(spool.add(b"a" * MAX_IN_MEMORY))
            self.assertTrue(spool.add(b"b"))
            result(spool.flush())
        spool.close()

    def test_small_pieces(self):
        """A client that sends two octets at a time needs no more memory than any other."""
        pieces = [b"%02d" % (number % 100) for number in range(100_000)]
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        spool = self.fill(*pieces)
        self.assertLess(tracemalloc.get_traced_memory()[0], 300_000)
        self.assertEqual(result(spool.finish()).read(), b"".join(pieces))
        spool.close()

    def test_large_pieces(self):
        """A large piece is kept as it is, because to copy each would take long."""
        piece = bytes(5000)
        references = getrefcount(piece)
        spool = self.fill(b"a")
        spool.add(piece)
        spool.add(b"b")
        self.assertEqual(getrefcount(piece), references + 1)
        spool.close()

    def test_memory(self):
        """What was added is not kept beside the whole message, nor when that is dropped."""
        for drop in (lambda spool: result(spool.finish()), Spool.close):
            piece = bytes(5000)
            references = getrefcount(piece)
            spool = self.fill(piece, b"b")
            drop(spool)
            self.assertEqual(getrefcount(piece), references)
            spool.close()

    def test_full(self):
        """An error names the directory."""
        spool = Spool(run_inline)
        spool.add(b"a")
        error = OSError(errno.ENOSPC, "no room")
        with (
            mock.patch.object(spool_module, "TemporaryFile", side_effect=error),
            self.assertRaises(OSError) as raised,
        ):
            result(spool.flush())
        self.assertEqual(raised.exception.filename, tempfile.gettempdir())
        spool.close()

    def test_still_full(self):
        """A message that could not be written is dropped, and the file closed."""
        spool = Spool(run_inline)
        spool.add(b"a")
        with (
            open("/dev/full", "w+b") as full,
            mock.patch.object(spool_module, "TemporaryFile", return_value=full),
        ):
            self.assertRaises(OSError, result, spool.flush())
            spool.close()
            self.assertTrue(full.closed)
