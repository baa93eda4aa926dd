"""Tests of popserv.core.snapshot."""

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.core import listings as listings_module
from popserv.core.snapshot import Message, Snapshot, is_unique_id, valid_unique_id
from popserv.messages.sizes import Sizes
from tests.core.harness import make_snapshot


class SnapshotTests(SynchronousTestCase):
    """The server records the size of each message (RFC 1725 section 4)."""

    def test_messages(self):
        """A snapshot is a sequence of messages, each with its position."""
        messages = make_snapshot(120, 200)
        self.assertEqual(list(messages), [Message(120, b"a", 0), Message(200, b"b", 1)])
        self.assertEqual(messages[-1], Message(200, b"b", 1))
        self.assertEqual(messages[:1], [Message(120, b"a", 0)])
        self.assertEqual((len(messages), messages.total), (2, 320))
        self.assertRaises(IndexError, lambda: messages[2])
        self.assertRaises(IndexError, lambda: messages[-3])

    def test_columns_of_one_length(self):
        """A snapshot with more sizes than unique-ids is an error."""
        self.assertRaises(ValueError, Snapshot, [1, 2], [b"a"])

    def test_large(self):
        """Sizes may exceed 4 GiB."""
        self.assertEqual(make_snapshot(2**33, 2**33).total, 2**34)

    def test_from_sizes(self):
        """A snapshot of measured messages has their sizes."""
        sizes = [Sizes(120, None), Sizes(200, 205), Sizes(80, None)]
        measured = Snapshot.from_sizes(sizes, [b"a", b"b", b"c"])
        self.assertEqual(measured.downgraded, {1: 205})
        self.assertEqual(list(measured), list(make_snapshot(120, 200, 80)))
        self.assertEqual(list(measured.sizes()), sizes)
        self.assertEqual(measured.total, 400)

    def test_one_form(self):
        """Forms with the same octets share one scan listing."""
        plain = make_snapshot(120, 200)
        self.assertEqual(len({id(plain.scan_listing(*form)) for form in FORMS}), 1)


SIZES = st.builds(Sizes, st.integers(0, 99), st.none() | st.integers(0, 99), st.booleans())
FORMS = [(False, False), (False, True), (True, False), (True, True)]
"""The arguments of Snapshot.scan_listing."""


class UpdatedTests(SynchronousTestCase):
    """An updated snapshot keeps the lines of unchanged messages."""

    def listings(self, snapshot):
        """Return the chunks of all listings of a snapshot."""
        listings = [snapshot.unique_id_listing]
        listings += [snapshot.scan_listing(*form).lines for form in FORMS]
        return [list(listing) for listing in listings]

    def test_kept(self):
        """The lines of unchanged messages are those that were formatted before."""
        self.patch(listings_module, "LINES_PER_CHUNK", 2)
        before = Snapshot.from_sizes([Sizes(120, 125, False)] * 4, (b"a", b"b", b"c", b"d"))
        listings = self.listings(before)
        after = self.listings(before.updated([Sizes(80, None)], (b"e",), (0, 1, 3, 4)))
        for old, new in zip(listings, after, strict=True):
            self.assertIs(new[0], old[0])

    @given(st.lists(SIZES, max_size=12), st.lists(SIZES, max_size=4), st.data())
    def test_any_update(self, old, new, data):
        """An updated snapshot equals a new one, whatever was removed, added and listed before."""
        self.patch(listings_module, "LINES_PER_CHUNK", 3)
        sizes = [*old, *new]
        uids = tuple(b"u%d" % n for n in range(len(sizes)))
        before = Snapshot.from_sizes(old, uids[: len(old)])
        for form in data.draw(st.sets(st.sampled_from(FORMS))):
            for _ in islice(before.scan_listing(*form).lines, data.draw(st.integers(0, 5))):
                pass
        for _ in islice(before.unique_id_listing, data.draw(st.integers(0, 5))):
            pass
        order = data.draw(
            st.sets(st.sampled_from(range(len(sizes)))).map(sorted)
            | st.permutations(range(len(sizes)))
            if sizes
            else st.just([])
        )
        after = before.updated(new, uids[len(old) :], order)
        expected = Snapshot.from_sizes([sizes[at] for at in order], [uids[at] for at in order])
        self.assertEqual(list(after), list(expected))
        self.assertEqual(list(after.sizes()), [sizes[at] for at in order])
        self.assertEqual(self.listings(after), self.listings(expected))
        self.assertEqual(after.total, expected.total)
        self.assertEqual(list(before.sizes()), old)


class ValidUniqueIdTests(SynchronousTestCase):
    """A unique-id has characters from 0x21 to 0x7E (RFC 1725 section 7), at most 70 (RFC 1939)."""

    @given(st.binary())
    def test_any_name(self, name):
        """A name that is a valid unique-id stays; any other gets a digest that is valid."""
        uid = valid_unique_id(name)
        is_valid = 1 <= len(name) <= 70 and all(0x21 <= octet <= 0x7E for octet in name)
        self.assertEqual(uid == name, is_valid)
        self.assertTrue(1 <= len(uid) <= 70 and all(0x21 <= octet <= 0x7E for octet in uid))

    def test_digest(self):
        """The digest never changes, otherwise clients fetch all mail again (b2sum -l 160)."""
        self.assertEqual(valid_unique_id(b"a b"), b"407024d66cde17bdcf02effc1c376cb80387f3ec")

    def test_of_other_servers(self):
        """A unique-id of another server has 1 to 255 octets from 0x21 to 0x7E."""
        for unique_id in (b"!", b"~", b"x" * 70, b"x" * 255):
            self.assertTrue(is_unique_id(unique_id), unique_id)
        for unique_id in (b"", b"x" * 256, b" ", b"a b", b"\x7f", b"\x80", b"a\n"):
            self.assertFalse(is_unique_id(unique_id), unique_id)
