"""Tests of popserv.migration.comparison."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.migration.comparison import Fingerprint, Listed, compare, read
from popserv.migration.pop3_urls import Security
from popserv.migration.remote_side import logged_in
from tests.migration.harness import FakeServer

A = (b"a", b"A: 1\r\nMessage-ID: <a>\r\n\r\nbody\r\n")
B = (b"b", b"B: 1\r\nMessage-ID: <b>\r\n\r\nbody\r\n")
C = (b"c", b"C: 1\r\nMessage-ID: <c>\r\n\r\n" + b"x" * 400_000 + b"\r\n")


class ReadTests(SynchronousTestCase):
    """What is read of a server."""

    def read(self, messages, **options):
        """Return what a server with these messages shows, and the server."""
        server = FakeServer(self, messages)
        with logged_in(server.address, Security(), b"ann", b"secret") as maildrop:
            listed = read(maildrop, **options)
        self.assertEqual(server.changes, [])
        return listed, server

    def test_octets(self):
        """Each octet of a message counts, and its header."""
        changed = (b"c", C[1].replace(b"xx\r\n", b"xy\r\n"))
        seen = []
        before, _ = self.read([A, B, C], report=lambda *progress: seen.append(progress))
        after, _ = self.read([A, B, changed])
        self.assertEqual(seen, [(0, 3), (1, 3), (2, 3)])
        self.assertEqual([each.unique_id for each in before.messages], [b"a", b"b", b"c"])
        self.assertEqual(before.messages[:2], after.messages[:2])
        self.assertNotEqual(before.messages[2].octets, after.messages[2].octets)
        self.assertEqual(before.messages[2].header, after.messages[2].header)
        self.assertEqual(before.capabilities, [b"TOP", b"UIDL"])

    def test_sizes_only(self):
        """With sizes_only, sizes and headers count, and no message is fetched."""
        same_size = (b"a", A[1].replace(b"body", b"bodx"))
        listed, server = self.read([A, same_size, C], sizes_only=True)
        first, second, third = listed.messages
        self.assertEqual(first, second)
        self.assertNotEqual(first.octets, third.octets)
        self.assertEqual([line for line in server.commands if line.startswith(b"RETR")], [])
        longer, _ = self.read([(b"a", A[1] + b"\r\n")], sizes_only=True)
        self.assertNotEqual(first.octets, longer.messages[0].octets)
        self.assertEqual(first.header, longer.messages[0].header)

    def test_no_capabilities(self):
        """A server need not have CAPA."""
        server = FakeServer(self, [A], replies={b"CAPA": b"-ERR\r\n"})
        with logged_in(server.address, Security(), b"ann", b"secret") as maildrop:
            self.assertEqual(read(maildrop).capabilities, [])


def listed(*texts, capabilities=()):
    """Return messages given as ``id octets header``."""
    return Listed([Fingerprint(*text.encode().split()) for text in texts], capabilities)


class CompareTests(SynchronousTestCase):
    """Which messages are the same, and what differs."""

    def assert_found(self, old, new, **expected):
        """Check the differences; those that are not given must not be there."""
        found = compare(listed(*old), listed(*new))._asdict()
        pairs = expected.pop("pairs", [])
        self.assertEqual(found.pop("pairs"), pairs)
        self.assertEqual({name: value for name, value in found.items() if value}, expected)

    def test_equal(self):
        """Equal servers have no difference."""
        self.assert_found([], [])
        both = ["a 1 h", "b 2 h", "c 2 h"]
        self.assert_found(both, both, pairs=[(0, 0), (1, 1), (2, 2)])
        self.assertTrue(compare(listed(*both), listed(*both)).is_equal)

    def test_again(self):
        """A message whose unique-id the old server did not have is fetched again."""
        self.assert_found(["a 1 h", "b 2 i"], ["x 1 h", "b 2 i"], pairs=[(0, 0), (1, 1)], again=[0])

    def test_known(self):
        """A message with the unique-id of another one that the client has is not fetched again."""
        self.assert_found(["a 1 h", "b 2 i"], ["b 1 h", "a 2 i"], pairs=[(0, 0), (1, 1)])

    def test_never(self):
        """A new message with a unique-id that the client knows is not fetched at all."""
        self.assert_found(["a 1 h"], ["a 2 i"], missing=[0], added=[0], never=[0])

    def test_no_unique_id(self):
        """A message without a unique-id is fetched again."""
        message = Fingerprint(b"", b"1", b"h")
        found = compare(Listed([message], ()), Listed([message], ()))
        self.assertEqual((found.pairs, found.again), ([(0, 0)], [0]))

    def test_added(self):
        """Mail that only the new server has is new to clients, and not fetched again."""
        self.assert_found(["a 1 h"], ["a 1 h", "b 2 i"], pairs=[(0, 0)], added=[1])

    def test_missing(self):
        """Mail that only the old server has is missing."""
        self.assert_found(["a 1 h", "b 2 i"], ["b 2 i"], pairs=[(1, 0)], missing=[0])

    def test_different(self):
        """Of messages with equal headers, those with one unique-id are the same."""
        self.assert_found(
            ["a 1 h", "b 2 h"],
            ["b 3 h", "a 4 h"],
            pairs=[(0, 1), (1, 0)],
            different=[(0, 1), (1, 0)],
            moved=1,
        )
        self.assert_found(["a 1 h"], ["x 2 h"], pairs=[(0, 0)], different=[(0, 0)], again=[0])

    def test_moved(self):
        """The fewest messages that explain another order have moved."""
        old = [f"{n} {n} {n}" for n in range(5)]
        new = [old[4], *old[:4]]
        self.assert_found(old, new, pairs=[(0, 1), (1, 2), (2, 3), (3, 4), (4, 0)], moved=1)

    def test_lost(self):
        """Capabilities and their arguments are lost one by one; a name, STLS or CAPA is none."""
        old = [
            b"TOP",
            b"sasl PLAIN LOGIN",
            b"EXPIRE NEVER",
            b"IMPLEMENTATION x",
            b"STLS",
            b"CAPA",
            b"",
            b"x",
        ]
        new = [b"top", b"SASL PLAIN CRAM-MD5", b"EXPIRE 0"]
        found = compare(listed(capabilities=old), listed(capabilities=new))
        self.assertEqual(found.lost, [b"SASL LOGIN", b"EXPIRE NEVER", b"X"])
        self.assertFalse(found.is_equal)
        self.assertEqual(compare(listed(capabilities=new), listed(capabilities=new)).lost, [])

    @given(
        *[st.lists(st.tuples(*[st.sampled_from("abc")] * 3).map(" ".join), max_size=8)] * 2,
    )
    def test_each_message_once(self, old, new):
        """Each message is in one pair, or only on its server."""
        found = compare(listed(*old), listed(*new))
        for side, count, alone in ((0, len(old), found.missing), (1, len(new), found.added)):
            places = [*(pair[side] for pair in found.pairs), *alone]
            self.assertEqual(sorted(places), list(range(count)))
