"""base_names, compared with plain sorting and digesting."""

from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.core.snapshot import valid_unique_id
from popserv.maildrops.maildir.listing import base_names
from popserv.maildrops.maildir.listing.base_names import (
    are_sorted,
    delivery_order,
    have_info,
    merge_order,
    sort_base_names,
    unique_ids,
)

TYPICAL = st.from_regex(rb"1[0-9]{9}\.[!-~]{0,3}", fullmatch=True)
ANY = st.one_of(
    TYPICAL,
    st.from_regex(rb"[0-9]{0,20}(\.[a-z ]{0,2})?", fullmatch=True),
    st.binary(max_size=75).map(lambda name: name.translate(None, b"/:\0")),
)


class BaseNamesTests(SynchronousTestCase):
    """For any base names, the result is that of the plainest code."""

    def setUp(self):
        """Make batches so small that a few names fill several."""
        self.patch(base_names, "_BATCH", 4)
        self.patch(base_names, "_SAMPLE_STEP", 2)

    @given(st.one_of(st.sets(TYPICAL, max_size=60), st.sets(ANY, max_size=30)))
    def test_sort_base_names(self, names):
        """Base names are sorted by delivery time, then by name."""
        ordered = sort_base_names(list(names))
        self.assertEqual(ordered, sorted(names, key=delivery_order))
        self.assertTrue(are_sorted(ordered))

    @given(st.one_of(st.lists(TYPICAL, max_size=12), st.lists(ANY, max_size=12)))
    def test_are_sorted(self, names):
        """Base names are sorted if each comes before the next, so without duplicates."""
        keys = [delivery_order(name) for name in names]
        self.assertEqual(are_sorted(names), sorted(set(keys)) == keys)

    @given(st.one_of(st.lists(TYPICAL), st.lists(ANY)))
    def test_unique_ids(self, names):
        """Each base name has the unique-id that it has alone."""
        self.assertEqual(unique_ids(tuple(names)), tuple(map(valid_unique_id, names)))

    def test_delivery_time(self):
        """The time is a number of at most 19 digits before the first dot."""
        for name, seconds in (
            *((b"1.a", 1), (b"12.3.4", 12), (b"7", 7), (b"", 0), (b".5", 0), (b"x.5", 0)),
            *((b"9" * 19 + b".a", 10**19 - 1), (b"9" * 20 + b".a", 0), (b"+1.a", 0)),
        ):
            self.assertEqual(delivery_order(name), (seconds, name))

    def test_swapped(self):
        """Two neighbours in the wrong order are found, wherever batches end."""
        for names in ([b"%d.x" % (10**9 + n) for n in range(12)], [b"%d" % n for n in range(12)]):
            self.assertTrue(are_sorted(names))
            for at in range(11):
                swapped = [*names[:at], names[at + 1], names[at], *names[at + 2 :]]
                self.assertFalse(are_sorted(swapped))

    def test_have_info(self):
        """A base name ends with info only if none follows it."""
        for name, location, has_info in (
            *((b"1.a;2,S", b"\1", True), (b"1.a;2,S", b"\1:2,", False), (b"1.a", b"\1", False)),
            (b"1.a", b"\1:2,S", False),
            (b"1.a;2,S", b"\1:", False),
        ):
            self.assertIs(have_info([b"0.x", name], [b"\0", location]), has_info)

    def test_same_tuple(self):
        """If all base names are valid unique-ids, the unique-ids are the same tuple."""
        names = tuple(b"%d.x" % (10**9 + n) for n in range(10))
        self.assertIs(unique_ids(names), names)

    @given(st.sets(ANY, max_size=20), st.sets(ANY, max_size=20), st.sets(st.integers(0, 19)))
    def test_merge_order(self, old, new, removed):
        """Kept and new base names are merged into one sorted list."""
        old = sort_base_names(list(old))
        new = sort_base_names(list(new.difference(old)))
        kept = [at for at in range(len(old)) if at not in removed]
        order = merge_order(kept, (*old, *new), len(old))
        names = [(*old, *new)[at] for at in order]
        wanted = [*new, *(old[at] for at in kept)]
        self.assertEqual(names, sorted(wanted, key=delivery_order))

    def test_batches(self):
        """No call of sorted() has more than a few batches, since other threads cannot run in it."""
        names = [b"%d.x" % (10**9 + n * 7919 % 4999) for n in range(4999)]
        self.patch(base_names, "_BATCH", 64)
        self.patch(base_names, "_SAMPLE_STEP", 8)
        lengths = []

        def sorted_(items, **options):
            items = sorted(items, **options)
            lengths.append(len(items))
            return items

        with mock.patch.object(base_names, "sorted", sorted_, create=True):
            sort_base_names(names)
        samples = 4999 // 8 + 100
        self.assertLess(max(lengths), samples)
