"""Snapshots, message-numbers and marks."""

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.core import snapshot as snapshot_module
from popserv.core.maildrop import Maildrop, message_count
from popserv.core.snapshot import Message, Snapshot, valid_unique_id
from popserv.errors import NoSuchMessage
from popserv.messages.sizes import Sizes


def snapshot(*octets):
    """A snapshot of messages that long, with unique-ids a, b, c..."""
    return Snapshot(octets, [b"%c" % (97 + i) for i in range(len(octets))])


class SnapshotTests(SynchronousTestCase):
    """RFC 1725 section 4: the server notes the size of each message."""

    def test_messages(self):
        """A snapshot is a sequence of messages, each with its position."""
        messages = snapshot(120, 200)
        self.assertEqual(list(messages), [Message(120, b"a", 0), Message(200, b"b", 1)])
        self.assertEqual(messages[-1], Message(200, b"b", 1))
        self.assertEqual(messages[:1], [Message(120, b"a", 0)])
        self.assertEqual((len(messages), messages.total), (2, 320))
        self.assertRaises(IndexError, lambda: messages[2])
        self.assertRaises(IndexError, lambda: messages[-3])

    def test_columns_belong_together(self):
        """A snapshot with more sizes than unique-ids is none."""
        self.assertRaises(ValueError, Snapshot, [1, 2], [b"a"])

    def test_large(self):
        """Sizes go beyond 4 GiB."""
        self.assertEqual(snapshot(2**33, 2**33).total, 2**34)


class MaildropTests(SynchronousTestCase):
    """RFC 1725 section 5."""

    def test_numbers(self):
        """Message-numbers run from 1 to the number of messages, and 0 is none."""
        maildrop = Maildrop(snapshot(120, 200))
        self.assertEqual(maildrop[1].octets, 120)
        for number in (0, 3, 10**10 - 1):
            error = self.assertRaises(NoSuchMessage, lambda n=number: maildrop[n])
            self.assertEqual(str(error), "no such message, only 2 messages in maildrop")

    def test_marks(self):
        """A marked message is in no total, no listing and under no number, till unmarked."""
        maildrop = Maildrop(snapshot(120, 200, 80))
        maildrop.mark(2)
        self.assertEqual((maildrop.count, maildrop.octets), (2, 200))
        self.assertRaises(NoSuchMessage, lambda: maildrop[2])
        self.assertRaises(NoSuchMessage, maildrop.mark, 2)
        self.assertEqual(b"".join(maildrop.scan_listing()), b"1 120\r\n3 80\r\n")
        self.assertEqual(b"".join(maildrop.unique_id_listing()), b"1 a\r\n3 c\r\n")
        self.assertEqual([message.uid for message in maildrop.marked], [b"b"])
        maildrop.unmark_all()
        self.assertEqual((maildrop.count, maildrop.octets), (3, 400))
        self.assertEqual(maildrop[2].octets, 200)
        self.assertEqual(maildrop.marked, [])

    @given(st.lists(st.integers(0, 2**40), max_size=1200), st.data())
    def test_model(self, octets, data):
        """Totals and listings are what a plain list of messages says."""
        uids = [b"u%d" % i for i in range(len(octets))]
        maildrop = Maildrop(Snapshot(octets, uids))
        some = st.sets(st.integers(1, len(octets) or 1), max_size=20)
        marked = data.draw(some) if octets else set()
        for number in marked:
            maildrop.mark(number)
        left = [n for n in range(1, len(octets) + 1) if n not in marked]
        self.assertEqual(maildrop.count, len(left))
        self.assertEqual(maildrop.octets, sum(octets[n - 1] for n in left))
        scan = b"".join(b"%d %d\r\n" % (n, octets[n - 1]) for n in left)
        self.assertEqual(b"".join(maildrop.scan_listing()), scan)
        ids = b"".join(b"%d %b\r\n" % (n, uids[n - 1]) for n in left)
        self.assertEqual(b"".join(maildrop.unique_id_listing()), ids)
        self.assertEqual([m.position + 1 for m in maildrop.marked], sorted(marked))

    def test_listing_comes_in_steps(self):
        """A long listing is made piece by piece."""
        maildrop = Maildrop(Snapshot([1] * 2000, [b"u%d" % i for i in range(2000)]))
        pieces = list(maildrop.scan_listing())
        self.assertGreater(len(pieces), 2)
        self.assertEqual(b"".join(pieces).count(b"\r\n"), 2000)

    def test_counted(self):
        """RFC 1725 section 7's example has 1 message, section 9's has 2 messages."""
        wanted = ["0 messages", "1 message", "2 messages"]
        self.assertEqual([str(message_count(n)) for n in range(3)], wanted)


class DowngradedTests(SynchronousTestCase):
    """RFC 6856 section 2: until UTF8 the octets are those of the downgraded form."""

    def setUp(self):
        """The second of three messages has such a form, which is longer."""
        self.snapshot = Snapshot([120, 200, 80], [b"a", b"b", b"c"], {1: 205})

    def told(self, maildrop):
        """All that a maildrop tells of its octets."""
        return (
            (maildrop.count, maildrop.octets),
            b"".join(maildrop.scan_listing()).split(b"\r\n")[:-1],
            [maildrop[n].octets for n in range(1, 4)],
            [maildrop.is_downgraded(n) for n in range(1, 4)],
        )

    def test_downgraded(self):
        """Drop listing, scan listing and message all tell the same."""
        maildrop = Maildrop(self.snapshot, as_stored=False)
        wanted = ((3, 405), [b"1 120", b"2 205", b"3 80"], [120, 205, 80], [False, True, False])
        self.assertEqual(self.told(maildrop), wanted)

    def test_as_stored(self):
        """So they do of the form that is stored, from the start or later."""
        wanted = ((3, 400), [b"1 120", b"2 200", b"3 80"], [120, 200, 80], [False] * 3)
        maildrop = Maildrop(self.snapshot, as_stored=False)
        maildrop.show_as_stored()
        self.assertEqual(self.told(maildrop), wanted)
        self.assertEqual(self.told(Maildrop(self.snapshot)), wanted)

    def test_marks(self):
        """Marks outlive the change, and take off the octets of either form."""
        maildrop = Maildrop(self.snapshot, as_stored=False)
        maildrop.mark(2)
        self.assertEqual((maildrop.count, maildrop.octets), (2, 200))
        maildrop.show_as_stored()
        self.assertEqual((maildrop.count, maildrop.octets), (2, 200))
        maildrop.mark(1)
        self.assertEqual((maildrop.count, maildrop.octets), (1, 80))
        maildrop.unmark_all()
        self.assertEqual((maildrop.count, maildrop.octets), (3, 400))

    def test_marked(self):
        """What is marked is told to the store as the store knows it."""
        maildrop = Maildrop(self.snapshot, as_stored=False)
        maildrop.mark(2)
        self.assertEqual(maildrop.marked, [self.snapshot[1]])

    def test_sizes(self):
        """A snapshot of messages that were measured is the same."""
        sizes = [Sizes(120, None), Sizes(200, 205), Sizes(80, None)]
        measured = Snapshot.from_sizes(sizes, [b"a", b"b", b"c"])
        self.assertEqual(measured.downgraded, {1: 205})
        self.assertEqual(list(measured), list(self.snapshot))
        self.assertEqual(list(measured.sizes()), sizes)
        self.assertEqual(measured.total, 400)

    def test_snapshot_stays(self):
        """A snapshot, which sessions may share, never changes."""
        maildrop = Maildrop(self.snapshot, as_stored=False)
        maildrop.mark(2)
        maildrop.show_as_stored()
        self.assertEqual(list(self.snapshot.octets), [120, 200, 80])
        self.assertEqual((self.snapshot.total, self.snapshot.downgraded), (400, {1: 205}))

    @given(
        st.lists(st.tuples(st.integers(0, 99), st.none() | st.integers(0, 99)), max_size=20),
        st.lists(st.integers(0, 21), max_size=20),
        st.integers(0, 20),
    )
    def test_model(self, sizes, marks, at):
        """Whatever is marked, and whenever the form changes, totals are those of the listing."""
        uids = [b"u%d" % i for i in range(len(sizes))]
        snapshot = Snapshot.from_sizes([Sizes(*size) for size in sizes], uids)
        maildrop = Maildrop(snapshot, as_stored=False)
        marked = set()
        for step, number in enumerate([*marks, 0]):
            if step == at:
                maildrop.show_as_stored()
            if 0 < number <= len(sizes) and number not in marked:
                maildrop.mark(number)
                marked.add(number)
            elif number == 21:
                maildrop.unmark_all()
                marked.clear()
            # One that cannot be downgraded, 0, is listed as it is stored.
            shown = [stored if not other or step >= at else other for stored, other in sizes]
            left = {n: octets for n, octets in enumerate(shown, 1) if n not in marked}
            self.assertEqual((maildrop.count, maildrop.octets), (len(left), sum(left.values())))
            scan = b"".join(b"%d %d\r\n" % each for each in left.items())
            self.assertEqual(b"".join(maildrop.scan_listing()), scan)


SIZES = st.builds(Sizes, st.integers(0, 99), st.none() | st.integers(0, 99), st.booleans())
FORMS = [(False, False), (False, True), (True, False), (True, True)]


class ChangedTests(SynchronousTestCase):
    """What changes of a maildrop is made anew, and what does not is kept."""

    def listings(self, snapshot):
        """All that is listed of a snapshot."""
        listings = [snapshot.unique_ids, *(snapshot.shown(*form).listing for form in FORMS)]
        return [b"".join(listing) for listing in listings]

    @given(st.lists(SIZES, max_size=12), st.lists(SIZES, max_size=4), st.data())
    def test_any_change(self, old, new, data):
        """Whatever goes, comes and was listed before, all is as if it were made from nothing."""
        self.patch(snapshot_module, "_LINES_A_CHUNK", 3)
        sizes = [*old, *new]
        uids = tuple(b"u%d" % n for n in range(len(sizes)))
        before = Snapshot.from_sizes(old, uids[: len(old)])
        for form in data.draw(st.sets(st.sampled_from(FORMS))):
            for _ in islice(before.shown(*form).listing, data.draw(st.integers(0, 5))):
                pass
        for _ in islice(before.unique_ids, data.draw(st.integers(0, 5))):
            pass
        order = data.draw(
            st.sets(st.sampled_from(range(len(sizes)))).map(sorted)
            | st.permutations(range(len(sizes)))
            if sizes
            else st.just([])
        )
        after = before.updated(new, uids[len(old) :], order)
        wanted = Snapshot.from_sizes([sizes[at] for at in order], [uids[at] for at in order])
        self.assertEqual(list(after), list(wanted))
        self.assertEqual(list(after.sizes()), [sizes[at] for at in order])
        self.assertEqual(self.listings(after), self.listings(wanted))
        self.assertEqual(after.total, wanted.total)
        self.assertEqual(list(before.sizes()), old)

    def test_kept(self):
        """Sessions share lines and totals; a session with marks has its own."""
        snapshot = Snapshot([120, 200, 80], [b"a", b"b", b"c"], {1: 205}, [2])
        for form in FORMS:
            options = {"as_stored": not form[0], "adds_blank_lines": form[1]}
            one, other = (Maildrop(snapshot, **options) for _ in range(2))
            for here, there in zip(one.scan_listing(), other.scan_listing(), strict=True):
                self.assertIs(here, there)
            one.mark(1)
            self.assertNotEqual([*one.scan_listing()], [*other.scan_listing()])

    def test_one_form(self):
        """Where forms are alike they are kept once."""
        plain = snapshot(120, 200)
        self.assertEqual(len({id(plain.shown(*form)) for form in FORMS}), 1)


class LegalUidTests(SynchronousTestCase):
    """RFC 1725 section 7: characters in the range 0x21 to 0x7E; RFC 1939: at most 70."""

    @given(st.binary())
    def test_any_name(self, name):
        """A name that may be a unique-id is one, and any other gets a digest that may."""
        uid = valid_unique_id(name)
        legal = 1 <= len(name) <= 70 and all(0x21 <= octet <= 0x7E for octet in name)
        self.assertEqual(uid == name, legal)
        self.assertTrue(1 <= len(uid) <= 70 and all(0x21 <= octet <= 0x7E for octet in uid))

    def test_stays(self):
        """A digest never changes, or clients would fetch everything again (b2sum -l 160)."""
        self.assertEqual(valid_unique_id(b"a b"), b"407024d66cde17bdcf02effc1c376cb80387f3ec")
