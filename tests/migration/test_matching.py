"""matching: messages of two servers are matched whatever their order, and doubts are told."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.migration.matching import match


class Messages:
    """Messages in memory; ``read`` are the positions whose contents were asked for."""

    def __init__(self, messages, sizes=None):
        self.messages = messages
        self.sizes = sizes or [len(each) for each in messages]
        self.read = []

    def header(self, position):
        """Return the lines up to the first empty one."""
        return self.messages[position].partition(b"\n\n")[0].split(b"\n")

    def contents(self, position):
        """Return all lines."""
        self.read.append(position)
        return self.messages[position].split(b"\n")


def message(number, body=b"body", fields=b""):
    """Return a message with a Message-ID."""
    return b"Message-ID: <%d@a>\n%bSubject: x\n\n%b" % (number, fields, body)


def plain(body, subject=b"x"):
    """Return a message that no field identifies."""
    return b"Subject: %b\n\n%b" % (subject, body)


class MatchingTests(SynchronousTestCase):
    """Which messages are the same."""

    def assert_matches(self, first, second, pairs, doubtful=(), missing=(), read=0):
        """Check the result, and how many messages of the first server were read."""
        first, second = Messages(first), Messages(second)
        found = match(first, second)
        self.assertEqual(found, (pairs, list(doubtful), list(missing)))
        self.assertEqual(len(first.read), read)

    def test_header(self):
        """An identifying header is sufficient, in any order, and no message is read."""
        first = [message(1), message(2), message(3)]
        second = [message(3), message(4), message(1, fields=b"Status: RO\n")]
        self.assert_matches(first, second, {0: 2, 2: 0}, missing=[1])

    def test_sizes(self):
        """Sizes that a server counts in another way are no obstacle, but distinguish."""
        found = match(Messages([message(1)], [5]), Messages([message(1)], [7]))
        self.assertEqual(found.pairs, {0: 0})
        first = [message(1, b"a"), message(1, b"long")]
        self.assert_matches(first, first[::-1], {0: 1, 1: 0})

    def test_contents(self):
        """Messages that headers do not identify are compared as a whole."""
        first = [plain(b"a"), plain(b"b"), plain(b"c", b"y")]
        second = [plain(b"b"), plain(b"a"), plain(b"c", b"y")]
        self.assert_matches(first, second, {0: 1, 1: 0, 2: 2}, read=3)

    def test_doubtful(self):
        """A message that resembles one with other contents is not matched."""
        self.assert_matches([plain(b"a")], [plain(b"b")], {}, doubtful=[0], read=1)
        first = [message(1, b"aa"), message(1, b"b")]
        second = [message(1, b"aa"), message(1, b"ccc")]
        self.assert_matches(first, second, {0: 0}, doubtful=[1], read=1)

    def test_equal(self):
        """Messages with equal contents are matched in order; what remains is doubtful."""
        self.assert_matches([message(1)] * 2, [message(1)] * 2, {0: 0, 1: 1}, read=2)
        self.assert_matches([plain(b"a")] * 3, [plain(b"a")], {0: 0}, doubtful=[1, 2], read=3)
        self.assert_matches([plain(b"a")], [plain(b"a")] * 2, {0: 0}, read=1)

    def test_empty(self):
        """Messages without a header, and servers without messages, are no exception."""
        self.assert_matches([b"\n\na"], [b"\n\nb", b"\n\na"], {0: 1}, read=1)
        self.assert_matches([], [message(1)], {})
        self.assert_matches([message(1)], [], {}, missing=[0])

    @given(
        st.lists(st.tuples(st.integers(0, 3), st.sampled_from([b"", b"a", b"bb"]), st.booleans())),
        st.randoms(use_true_random=False),
    )
    def test_any(self, kinds, random):
        """Each message is paired once, with equal contents, or is told."""
        messages = [message(n, body) if has_id else plain(body) for n, body, has_id in kinds]
        others = [each for each in messages if random.random() < 0.7]
        random.shuffle(others)
        found = match(Messages(messages), Messages(others))
        self.assertEqual(len(set(found.pairs.values())), len(found.pairs))
        positions = sorted([*found.pairs, *found.doubtful, *found.missing])
        self.assertEqual(positions, list(range(len(messages))))
        for at, other in found.pairs.items():
            if b"Message-ID" not in messages[at]:
                self.assertEqual(messages[at], others[other])
        # The second server has nothing else, so each of its messages is matched.
        self.assertEqual(len(found.pairs), len(others))
