"""Tests of popserv.core.maildrop."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.core.maildrop import Maildrop, message_count
from popserv.core.snapshot import Snapshot
from popserv.errors import NeedsUTF8, NoSuchMessage, ReadOnlyMaildrop
from popserv.messages.sizes import Sizes
from tests.core.harness import make_snapshot


class MaildropTests(SynchronousTestCase):
    """Message-numbers and deletion marks (RFC 1725 section 5)."""

    def test_numbers(self):
        """Message-numbers are from 1 to the number of messages."""
        maildrop = Maildrop(make_snapshot(120, 200))
        self.assertEqual(maildrop[1].octets, 120)
        for number in (0, 3, 10**10 - 1):
            error = self.assertRaises(NoSuchMessage, lambda n=number: maildrop[n])
            self.assertEqual(str(error), "no such message, only 2 messages in maildrop")

    def test_marks(self):
        """A marked message is in no total and no listing and has no number, until unmarked."""
        maildrop = Maildrop(make_snapshot(120, 200, 80))
        maildrop.mark(2)
        self.assertEqual((maildrop.count, maildrop.octets), (2, 200))
        self.assertRaises(NoSuchMessage, lambda: maildrop[2])
        self.assertRaises(NoSuchMessage, maildrop.mark, 2)
        self.assertEqual(b"".join(maildrop.scan_listing()), b"1 120\r\n3 80\r\n")
        self.assertEqual(b"".join(maildrop.unique_id_listing()), b"1 a\r\n3 c\r\n")
        self.assertEqual([message.uid for message in maildrop.marked], [b"b"])
        maildrop.unmark_all()
        self.assertEqual((maildrop.count, maildrop.octets), (3, 400))
        self.assertEqual(str(maildrop.summary()), "3 messages (400 octets)")
        self.assertEqual(maildrop[2].octets, 200)
        self.assertEqual(maildrop.marked, [])

    def test_read_only(self):
        """In a read-only maildrop no message can be marked; one that does not exist is told."""
        maildrop = Maildrop(make_snapshot(120, 200), is_read_only=True)
        self.assertRaises(NoSuchMessage, maildrop.mark, 3)
        error = self.assertRaises(ReadOnlyMaildrop, maildrop.mark, 1)
        self.assertEqual((error.code, str(error)), (b"SYS/PERM", "maildrop is read-only"))
        self.assertEqual((maildrop.count, maildrop.octets, maildrop.marked), (2, 320, []))

    @given(st.lists(st.integers(0, 2**40), max_size=1200), st.data())
    def test_model(self, octets, data):
        """Totals and listings are those of a plain list of messages."""
        uids = [b"u%d" % i for i in range(len(octets))]
        maildrop = Maildrop(Snapshot(octets, uids))
        numbers = st.sets(st.integers(1, len(octets) or 1), max_size=20)
        marked = data.draw(numbers) if octets else set()
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

    def test_shared_listings(self):
        """Sessions share formatted lines; a session with deletion marks has its own."""
        snapshot = make_snapshot(120, 200, 80, downgraded={1: 205}, header_only=[2])
        for downgraded in (False, True):
            for adds_blank_lines in (False, True):
                options = {"as_stored": not downgraded, "adds_blank_lines": adds_blank_lines}
                one, other = (Maildrop(snapshot, **options) for _ in range(2))
                for here, there in zip(one.scan_listing(), other.scan_listing(), strict=True):
                    self.assertIs(here, there)
                one.mark(1)
                self.assertNotEqual([*one.scan_listing()], [*other.scan_listing()])

    def test_header_only(self):
        """A blank line is added to header-only messages, if it is added to any."""
        snapshot = make_snapshot(120, 200, 80, header_only=[1])
        for options, header_only in (({}, []), ({"adds_blank_lines": True}, [2])):
            maildrop = Maildrop(snapshot, **options)
            found = [number for number in (1, 2, 3) if maildrop.is_header_only(number)]
            self.assertEqual(found, header_only)
            self.assertEqual(maildrop[2].octets, 200 + 2 * len(header_only))

    def test_message_count(self):
        """One message is "1 message" (RFC 1725 section 7), two are "2 messages" (section 9)."""
        texts = ["0 messages", "1 message", "2 messages"]
        self.assertEqual([str(message_count(n)) for n in range(3)], texts)


class DowngradedTests(SynchronousTestCase):
    """Until UTF8 the octets are those of the downgraded form (RFC 6856 section 2)."""

    def setUp(self):
        """Make three messages, of which the second has a longer downgraded form."""
        self.snapshot = make_snapshot(120, 200, 80, downgraded={1: 205})

    def read(self, maildrop):
        """Return all that a maildrop gives of its octets."""
        return (
            (maildrop.count, maildrop.octets),
            b"".join(maildrop.scan_listing()).split(b"\r\n")[:-1],
            [maildrop[n].octets for n in range(1, 4)],
            [maildrop.is_downgraded(n) for n in range(1, 4)],
        )

    def test_downgraded(self):
        """Drop listing, scan listing and messages have the octets of the downgraded form."""
        maildrop = Maildrop(self.snapshot, as_stored=False)
        expected = ((3, 405), [b"1 120", b"2 205", b"3 80"], [120, 205, 80], [False, True, False])
        self.assertEqual(self.read(maildrop), expected)

    def test_needs_utf8(self):
        """A message that can only be sent as stored is refused until then."""
        maildrop = Maildrop(make_snapshot(120, 200, downgraded={0: 0, 1: 1}), as_stored=False)
        self.assertRaises(NeedsUTF8, maildrop.is_downgraded, 1)
        self.assertTrue(maildrop.is_downgraded(2))
        maildrop.use_stored_form()
        self.assertFalse(maildrop.is_downgraded(1))

    def test_as_stored(self):
        """They have the octets as stored from the start, or after use_stored_form()."""
        expected = ((3, 400), [b"1 120", b"2 200", b"3 80"], [120, 200, 80], [False] * 3)
        maildrop = Maildrop(self.snapshot, as_stored=False)
        maildrop.use_stored_form()
        self.assertEqual(self.read(maildrop), expected)
        self.assertEqual(self.read(Maildrop(self.snapshot)), expected)

    def test_marks(self):
        """Deletion marks stay when the form changes, and subtract the octets of that form."""
        maildrop = Maildrop(self.snapshot, as_stored=False)
        maildrop.mark(2)
        self.assertEqual((maildrop.count, maildrop.octets), (2, 200))
        maildrop.use_stored_form()
        self.assertEqual((maildrop.count, maildrop.octets), (2, 200))
        maildrop.mark(1)
        self.assertEqual((maildrop.count, maildrop.octets), (1, 80))
        maildrop.unmark_all()
        self.assertEqual((maildrop.count, maildrop.octets), (3, 400))

    def test_marked(self):
        """The store gets the marked messages as they are in the snapshot."""
        maildrop = Maildrop(self.snapshot, as_stored=False)
        maildrop.mark(2)
        self.assertEqual(maildrop.marked, [self.snapshot[1]])

    def test_snapshot_stays(self):
        """A session changes nothing in its snapshot."""
        maildrop = Maildrop(self.snapshot, as_stored=False)
        maildrop.mark(2)
        maildrop.use_stored_form()
        self.assertEqual(list(self.snapshot.octets), [120, 200, 80])
        self.assertEqual((self.snapshot.total, self.snapshot.downgraded), (400, {1: 205}))

    @given(
        st.lists(st.tuples(st.integers(0, 99), st.none() | st.integers(0, 99)), max_size=20),
        st.lists(st.integers(0, 21), max_size=20),
        st.integers(0, 20),
    )
    def test_model(self, sizes, marks, at):
        """The totals are those of the listing, whatever is marked and whenever the form changes."""
        uids = [b"u%d" % i for i in range(len(sizes))]
        snapshot = Snapshot.from_sizes([Sizes(*size) for size in sizes], uids)
        maildrop = Maildrop(snapshot, as_stored=False)
        marked = set()
        for step, number in enumerate([*marks, 0]):
            if step == at:
                maildrop.use_stored_form()
            if 0 < number <= len(sizes) and number not in marked:
                maildrop.mark(number)
                marked.add(number)
            elif number == 21:
                maildrop.unmark_all()
                marked.clear()
            # A message that can only be sent as stored, 0, is listed so.
            listed = [stored if not other or step >= at else other for stored, other in sizes]
            left = {n: octets for n, octets in enumerate(listed, 1) if n not in marked}
            self.assertEqual((maildrop.count, maildrop.octets), (len(left), sum(left.values())))
            scan = b"".join(b"%d %d\r\n" % each for each in left.items())
            self.assertEqual(b"".join(maildrop.scan_listing()), scan)
