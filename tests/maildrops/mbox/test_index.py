"""popserv.maildrops.mbox.index: a file is read once, and then what was appended."""

import os
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from popserv.maildrops.mbox import index as index_module
from popserv.maildrops.mbox.index import (
    Identity,
    find_messages,
    find_removable,
    read_index,
    without,
)
from popserv.maildrops.mbox.parser import DEFAULT_FORMAT
from popserv.maildrops.mbox.window import Window
from tests.maildrops.mbox.harness import INTERNAL_DATA, MboxCase, mbox_of, stored


class IndexTests(MboxCase):
    """The index of a file."""

    def read(self, known=None):
        """Return the index of the file, and how many octets were read."""
        windows = []

        class Counted(Window):
            def __init__(self, *args):
                super().__init__(*args)
                windows.append(self)

        fd = os.open(self.path, os.O_RDONLY)
        try:
            with mock.patch.object(index_module, "Window", Counted):
                index = read_index(fd, DEFAULT_FORMAT, None, known)
        finally:
            os.close(fd)
        return index, sum(window.octets_read for window in windows)

    def assert_same(self, index, other):
        """Check that two indexes have the same messages."""
        self.assertEqual(index[3:9], other[3:9])
        self.assertEqual(list(index.messages), list(other.messages))
        self.assertEqual(list(index.messages.sizes()), list(other.messages.sizes()))

    def test_appended(self):
        """If the file has grown, the last message and what follows is read."""
        self.write(mbox_of([b"x" * 100_000, b"last\n"]))
        known, _ = self.read()
        self.append(stored(b"new\n", 2))
        index, octets = self.read(known)
        self.assertLess(octets, 1000)
        self.assertTrue(known.is_whole)
        self.assertFalse(index.is_whole)
        self.assert_same(index, self.read()[0])

    def test_half_a_message(self):
        """What was appended may belong to the last message."""
        for start, rest in ((b"half", b" a message\n\n"), (b"half", b"\n"), (b"half\n", b"\n")):
            self.write(stored(b"first\n") + stored(b"", 1).rstrip(b"\n") + b"\n" + start)
            known, _ = self.read()
            self.append(rest + stored(b"new\n", 2))
            self.assert_same(self.read(known)[0], self.read()[0])

    def test_rewritten(self):
        """A file that was rewritten, and is not longer or has another end, is read whole."""
        self.write(mbox_of([b"first\n", b"second\n"]))
        known, _ = self.read()
        for contents in (
            mbox_of([b"x\n", b"first\n", b"second\n", b"x\n"]),
            mbox_of([b"first\n", b"SECOND\n", b"third\n"]),
            mbox_of([b"FIRST\n", b"second\n"]),
            stored(b"much longer than before\n" * 10),
            INTERNAL_DATA,
        ):
            self.write(contents)
            self.assert_same(self.read(known)[0], self.read()[0])
        self.write(stored(b"x\n"))
        known, _ = self.read()
        self.write(INTERNAL_DATA)
        self.assertEqual(len(self.read(known)[0].messages), 0)

    def test_replaced(self):
        """Another file is read whole, even if the messages that were there last are the same."""
        self.write(mbox_of([b"first\n", b"second\n"]))
        known, _ = self.read()
        os.rename(self.path, self.path + ".old")
        self.write(mbox_of([b"FIRST\n", b"second\n", b"third\n"]))
        self.assert_same(self.read(known)[0], self.read()[0])

    def test_first(self):
        """The first messages of an index are the start of that of the same file if it is longer."""
        self.write(mbox_of([b"first\n", b"second\n", b"third\n"]))
        known, _ = self.read()
        for count in range(4):
            self.assert_same(self.read(known.first(count))[0], known)
        self.write(mbox_of([b"FIRST\n", b"second\n"]))
        self.assert_same(self.read(known.first(2))[0], self.read()[0])

    def test_settled(self):
        """A file that has just changed may change again with the same times."""
        self.write(mbox_of([b"x\n"]))
        self.assertTrue(self.read()[0].is_settled)
        os.utime(self.path)
        self.assertFalse(self.read()[0].is_settled)
        coarse = Identity(0, 0, 0, index_module.time.time_ns() - 10**9, 10**9)
        self.assertFalse(coarse.is_settled())
        for fraction in (1, 10**8):
            self.assertTrue(coarse._replace(ctime_ns=10**9 + fraction).is_settled())

    @given(st.lists(st.integers(0, 3), min_size=1, max_size=8), st.data())
    def test_without(self, sizes, data):
        """Removed messages leave the index that the file without them has."""
        messages = [b"%d.\n" % at * size for at, size in enumerate(sizes)]
        removed = [at for at in range(len(messages)) if data.draw(st.booleans())]
        self.write(mbox_of(messages))
        index, _ = self.read()
        octets = self.contents()
        parts = [octets[each:end] for each, end in zip(index.offsets, index.nexts, strict=True)]
        self.write(b"".join(part for at, part in enumerate(parts) if at not in removed))
        after, _ = self.read()
        self.assert_same(without(index, removed, after.identity), after)

    def test_find(self):
        """Messages are found wherever they are now; equal ones in their order."""
        same = stored(b"same\n")
        self.write(same + stored(b"x\n") + same + same + stored(b"y\n"))
        before, _ = self.read()
        self.write(stored(b"y\n") + same + stored(b"new\n") + same)
        after, _ = self.read()
        found = find_messages(before, after, range(5))
        self.assertEqual(found, {0: 1, 2: 3, 4: 0})
        for wanted, expected in (
            ([0], []),
            ([0, 2], [1]),
            ([2, 3], [1]),
            ([0, 2, 3], [1, 3]),
            ([1], []),
            ([1, 4], [0]),
        ):
            self.assertEqual(find_removable(before, after, wanted), expected, wanted)
        self.assertEqual(find_removable(after, before, [1]), [0])
        self.assertEqual(find_removable(before, before, [2, 0]), [0, 2])
        self.write(same * 4)
        before, _ = self.read()
        self.write(same * 2)
        after, _ = self.read()
        self.assertEqual(find_removable(before, after, [0]), [])

    def test_find_many_equal(self):
        """Equal messages are found one after the other, however many there are."""
        self.write(stored(b"same\n") * 20_000)
        index, _ = self.read()
        self.assertEqual(
            find_messages(index, index, range(20_000)), {at: at for at in range(20_000)}
        )
        removed = {*range(0, 20_000, 2)}
        self.assertEqual(find_removable(index, index, removed), sorted(removed))
