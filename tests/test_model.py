"""Random sessions in every dialect, compared with a simple model of the server."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.commands.dialects import DIALECTS, RFC1225
from popserv.maildrops.memory import MemoryMaildrops
from popserv.messages.downgrade.downgrader import Downgrader
from popserv.testing import MemoryClient
from tests.messages.harness import naive_lines, naive_response, naive_top, texts
from tests.transcripts import make_factory

numbers = st.integers(0, 4).map(lambda n: b"%d" % n) | st.sampled_from(
    [b"", b"x", b"-1", b"+1", b"0_1", b"99999999999", b"1 1", b"01"]
)
keywords = st.sampled_from(
    b"STAT LIST RETR DELE NOOP RSET UIDL LAST last list rEtR dele XYZ".split()
)
others = st.sampled_from(b"USER a,PASS b,APOP a b,RPOP a,CAPA x,STLS,AUTH,LANG x".split(b","))
lines = (
    st.tuples(keywords, numbers).map(b" ".join)
    | st.tuples(numbers, numbers).map(lambda pair: b"TOP %b %b" % pair)
    | keywords
    | others
    | st.just(b"UTF8")
    | st.binary(max_size=12).filter(lambda line: b"\n" not in line and b"QUIT" not in line.upper())
)


internationalized = st.tuples(
    st.sampled_from(
        ["Subject: gr\xfcn", "x: \u65e5\u672c", "To: J\xf6 <j\xf6@example.org>", "a: b"]
    ),
    st.sampled_from(["", "\r"]),
    st.sampled_from(["body\n", ".\n\xe4", "\r"]),
).map(lambda parts: f"{parts[0]}{parts[1]}\n{parts[1]}\n{parts[2]}".encode())


def downgraded(message):
    """Return the form of a message for a client that has not given UTF8."""
    downgrader = Downgrader()
    return downgrader.feed(message) + downgrader.finish()


class Model:
    """A session's maildrop by RFC 1725 sections 5 and 7, or RFC 1460 section 5.

    ``seen`` are the message-numbers that earlier sessions retrieved; ``downgrades`` tells whether
    the server has UTF8.
    """

    def __init__(self, messages, dialect, seen, downgrades):
        keywords = {command.keyword for command in dialect.commands}
        if not downgrades:
            keywords.discard(b"UTF8")
        forms = map(downgraded, messages) if downgrades else messages
        self.messages = dict(enumerate(forms, 1))
        self.stored = dict(enumerate(messages, 1))
        self.keywords = keywords
        self.retrieved = set()
        self.highest = max(seen, default=0)
        self.highest_after_rset = self.highest if dialect is RFC1225 else 0
        self.marked = set()
        self.bad_commands = 0

    def octets(self, number):
        """Return the octets of a message."""
        return sum(len(line) + 2 for line in naive_lines(self.messages[number]))

    def reply(self, line):
        """Return the reply to a line: a pattern for the status line, and the body or None."""
        line = line.removesuffix(b"\r")
        keyword, _, rest = line.partition(b" ")
        keyword = keyword.upper()
        given = rest.removesuffix(b" ").split(b" ") if rest else []
        arities = {b"STAT": (0,), b"NOOP": (0,), b"RSET": (0,), b"LIST": (0, 1), b"UIDL": (0, 1)}
        arities |= {b"UTF8": (0,), b"RETR": (1,), b"DELE": (1,), b"TOP": (2,), b"LAST": (0,)}
        is_command = (
            keyword in self.keywords
            and len(given) in arities.get(keyword, ())
            and all(re.fullmatch(rb"[0-9]{1,10}", word) for word in given)
        )
        self.bad_commands = 0 if is_command else self.bad_commands + 1
        if not is_command:
            return rb"-ERR .+", None
        left = [n for n in self.messages if n not in self.marked]
        if given and int(given[0]) not in left:
            # An error, but not a bad command.
            return rb"-ERR .+", None
        return self.execute(keyword, left, *map(int, given))

    def execute(self, keyword, left, number=None, lines=0):
        """Execute a valid command; return its reply as :meth:`reply` does."""
        numbers = [number] if number else left
        total = sum(map(self.octets, left))
        if keyword == b"STAT":
            return rb"\+OK %d %d" % (len(left), total), None
        if keyword in (b"LIST", b"UIDL"):
            value = self.octets if keyword == b"LIST" else lambda n: n
            form = b"%d %d" if keyword == b"LIST" else b"%d m%d"
            listed = [form % (n, value(n)) for n in numbers]
            return (rb"\+OK " + listed[0], None) if number else (rb"\+OK.*", listed)
        if keyword == b"LAST":
            return rb"\+OK %d" % self.highest, None
        if keyword in (b"RETR", b"DELE"):
            self.highest = max(self.highest, number)
        if keyword == b"RETR":
            self.retrieved.add(number)
            return rb"\+OK %d octets" % self.octets(number), naive_lines(self.messages[number])
        if keyword == b"TOP":
            return rb"\+OK.*", naive_top(self.messages[number], lines)
        if keyword == b"DELE":
            self.marked.add(number)
        if keyword == b"RSET":
            self.marked.clear()
            self.retrieved.clear()
            self.highest = self.highest_after_rset
        if keyword == b"UTF8":
            self.messages = self.stored
        return rb"\+OK.*", None


class ModelTests(SynchronousTestCase):
    """The server replies as the model does, and leaves the same messages."""

    @settings(max_examples=300)
    @given(
        st.lists(texts | internationalized, max_size=3),
        st.lists(lines, max_size=25),
        st.integers(1, 40),
        st.sampled_from(list(DIALECTS.values())),
        st.sets(st.integers(1, 3)),
        st.booleans(),
    )
    def test_sessions(self, messages, commands, packet, dialect, seen, downgrades):
        """Any session, in packets of any size, has the replies and the outcome of the model."""
        downgrades &= dialect.has(b"UTF8")
        downgrader = Downgrader if downgrades else None
        store = MemoryMaildrops(downgrader)
        uids = [store.deliver(b"joe", message) for message in messages]
        seen &= set(range(1, len(messages) + 1))
        store.retrieved[b"joe"] = {uids[n - 1] for n in seen}
        model = Model(messages, dialect, seen, downgrades)
        client = MemoryClient(
            make_factory(store, self.mktemp(), dialect=dialect, downgrader=downgrader)
        )
        client.send(b"USER joe\r\nPASS secret\r\n")
        for line in commands:
            octets = line + b"\r\n"
            received = b"".join(
                client.send(octets[at : at + packet]) for at in range(0, len(octets), packet)
            )
            status, body = model.reply(line)
            end = received.index(b"\r\n")
            self.assertRegex(received[:end], b"^" + status + b"$", line)
            expected = b"" if body is None else naive_response(body)
            self.assertEqual(received[end + 2 :], expected, line)
            self.assertEqual(client.closed, model.bad_commands >= 20)
            if client.closed:
                model.marked.clear()
                model.retrieved.clear()
                break
        client.send(b"QUIT\r\n")
        self.assertTrue(client.closed)
        client.lose()
        left = [message for n, message in model.stored.items() if n not in model.marked]
        self.assertEqual(list(store.stored.get(b"joe", {}).values()), left)
        self.assertEqual(store.locked, set())
        if dialect.has(b"LAST"):
            seen |= model.retrieved - model.marked
        self.assertEqual(store.retrieved[b"joe"], {uids[n - 1] for n in seen})

    @given(st.binary(max_size=400), st.integers(1, 50), st.sampled_from(list(DIALECTS.values())))
    def test_anything(self, octets, packet, dialect):
        """Every reply to arbitrary octets is a line that starts with a status indicator."""
        client = MemoryClient(make_factory(MemoryMaildrops(), self.mktemp(), dialect=dialect))
        received = b"".join(
            client.send(octets[at : at + packet]) for at in range(0, len(octets), packet)
        )
        client.clock.advance(9)
        received += client.received()
        for line in received.split(b"\r\n")[:-1]:
            self.assertRegex(line, rb"^(\+OK|-ERR) [ -~]*$")
        self.assertEqual(self.flushLoggedErrors(), [])
