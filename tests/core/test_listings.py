"""Tests of popserv.core.listings."""

from types import SimpleNamespace

from twisted.trial.unittest import SynchronousTestCase

from popserv.commands import rfc1725
from popserv.core import listings
from popserv.core.listings import LINES_PER_CHUNK, Listing, ScanListing
from popserv.core.maildrop import Maildrop
from popserv.core.snapshot import Snapshot
from popserv.texts import ENGLISH


class ListingTests(SynchronousTestCase):
    """The lines of LIST and UIDL are formatted in chunks."""

    def test_chunks(self):
        """A long listing is formatted chunk by chunk."""
        maildrop = Maildrop(Snapshot([1] * 2000, [b"u%d" % i for i in range(2000)]))
        chunks = list(maildrop.scan_listing())
        self.assertGreater(len(chunks), 2)
        self.assertEqual(b"".join(chunks).count(b"\r\n"), 2000)

    def test_one_chunk(self):
        """A listing of one chunk at most is one response, and no body that is sent in pieces."""
        for number in (0, 1, LINES_PER_CHUNK, LINES_PER_CHUNK + 1):
            snapshot = Snapshot([1] * number, [b"u%d" % i for i in range(number)])
            session = SimpleNamespace(maildrop=Maildrop(snapshot), language=ENGLISH)
            for command in (rfc1725.list_, rfc1725.uidl):
                outcome = command.run(session, None)
                self.assertEqual(isinstance(outcome, bytes), number <= LINES_PER_CHUNK)

    def test_chunk_size(self):
        """A chunk of the longest lines has less than 64 KiB."""
        longest = b"%d %b\r\n" % (10**13 - 1, b"x" * 70)
        self.assertLess(len(longest) * LINES_PER_CHUNK, 1 << 16)

    def test_without(self):
        """Lines at the marked positions are left out; the others keep their numbers."""
        self.patch(listings, "LINES_PER_CHUNK", 2)
        listing = Listing([b"a", b"b", b"c", b"d"], b"%d %b\r\n")
        self.assertEqual(list(listing.without({1, 2})), [b"1 a\r\n", b"4 d\r\n"])
        self.assertEqual(list(listing), [b"1 a\r\n2 b\r\n", b"3 c\r\n4 d\r\n"])

    def test_scan_listing(self):
        """A scan listing has the sizes, their total and the lines of LIST."""
        listing = ScanListing([120, 200])
        self.assertEqual((list(listing.sizes), listing.total), ([120, 200], 320))
        self.assertEqual(b"".join(listing.lines), b"1 120\r\n2 200\r\n")
