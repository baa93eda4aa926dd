"""Messages downgraded as they stream, against a naive walk over whole messages and real mail."""

import re
from collections import deque
from email import message_from_bytes, message_from_string
from email.policy import default as policy
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from unittest.mock import patch

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.messages import downgrade, sizes
from popserv.messages.downgrade import Downgrader
from popserv.messages.fields import downgraded_field
from popserv.messages.framing import TopFramer
from popserv.messages.octets import count_octets
from popserv.messages.sizes import MessageCounter, Sizes, measure

UMLAUT = "\xfc".encode()
SUBJECT = b"Subject: " + UMLAUT + b"\n"
DOWN = b"Subject: =?UTF-8?B?w7w=?=\n"

# The header lines that the naive walk knows: type, boundary, what the type becomes.
CONTENT = {
    b"Content-Type: multipart/mixed; boundary=a\n": ("multipart/mixed", b"a"),
    b'content-type: Multipart/Digest;\n\tboundary="aa"\n': ("multipart/digest", b"aa"),
    b"Content-Type: multipart/mixed; boundary=a--\n": ("multipart/mixed", b"a--"),
    b"Content-Type: multipart/mixed; boundary=b (c)\n": ("multipart/mixed", b"b"),
    b"Content-Type: multipart/mixed\n": ("multipart/mixed", b""),
    b"Content-Type: message/rfc822\n": ("message/rfc822", b""),
    b"Content-Type: Message/Global; x=y\n": ("message/global", b""),
    b"CONTENT-TYPE: message/global-headers\n": ("message/global-headers", b""),
    b"Content-Type: message/delivery-status\n": ("message/delivery-status", b""),
    b"Content-Type:\n message/global-delivery-status\n": ("message/global-delivery-status", b""),
    b"Content-Type: text/plain\n": ("text/plain", b""),
}
BECOMES = {
    "message/global": b"message/rfc822",
    "message/global-headers": b"text/rfc822-headers",
    "message/global-delivery-status": b"message/delivery-status",
}
BASE64 = b"Content-Transfer-Encoding: Base64\n"
EIGHT_BIT = b"Content-Transfer-Encoding: 8bit (x)\n"
DELIMITERS = [b"--a", b"--a--", b"--aa", b"--aa--", b"--a----", b"--b", b"--b--", b"--c"]

pieces = (
    st.sampled_from([*CONTENT, BASE64, EIGHT_BIT])
    | st.sampled_from([b"\n", b"\n", b"\r\n", SUBJECT, SUBJECT, b"To: " + UMLAUT + b" <a@b>\r\n"])
    | st.sampled_from([b"Subject: \xfc\n", b"x: y\n", UMLAUT + b"\n", b"\r", b"x", b" " + UMLAUT])
    | st.sampled_from([line + end for line in DELIMITERS for end in (b"\n", b" \t\r\n", b"")])
)
messages = st.builds(
    lambda found, end: b"".join(found).replace(b"\n", end),
    st.lists(pieces, max_size=30),
    st.sampled_from([b"\n", b"\r\n"]),
)


@st.composite
def chunked(draw, texts=messages):
    """A message and the same cut into chunks anywhere, empty ones included."""
    text = draw(texts)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    edges = [0, *cuts, len(text)]
    return text, [text[a:b] for a, b in pairwise(edges)]


def downgraded(*chunks):
    """What these chunks become."""
    downgrader = Downgrader()
    return b"".join(map(downgrader.feed, chunks)) + downgrader.finish()


def counted(*chunks):
    """The sizes of a message."""
    counter = MessageCounter()
    for chunk in chunks:
        counter.feed(chunk)
    return counter.finish()


class NaiveWalk:
    """A message downgraded line by line, all of it in memory.

    ``out`` is its fields and lines; ``waiting`` are those of them that name a type which
    becomes another if a field within is downgraded.
    """

    def __init__(self, message):
        self.lines = deque(re.findall(rb"[^\n]*\n|[^\n]+", message))
        self.boundaries = []
        self.out = []
        self.waiting = []

    def run(self):
        """Return the downgraded message."""
        self.entity("")
        self.body()
        return b"".join(self.out)

    def delimiter(self):
        """What the next line delimits: (level, is it the end), or None."""
        if self.lines and self.lines[0].endswith(b"\n"):
            text = self.lines[0][:-1].removesuffix(b"\r").rstrip(b" \t")
            for level in reversed(range(len(self.boundaries))):
                for end in (b"", b"--"):
                    if text == b"--" + self.boundaries[level] + end:
                        return level, bool(end)
        return None

    def header(self):
        """Send a header downgraded; return its fields, and whether an empty line ends it."""
        fields = []
        while self.lines and not self.delimiter():
            line = self.lines.popleft()
            if line in (b"\n", b"\r\n"):
                fields.append(line)
                break
            if line[:1] in (b" ", b"\t") and fields:
                fields[-1] += line
            else:
                fields.append(line)
        for field in fields:
            new = downgraded_field(field)
            if new is not field:
                for at, kind in self.waiting:
                    pattern = re.compile(re.escape(kind.encode()), re.IGNORECASE)
                    self.out[at] = pattern.sub(BECOMES[kind], self.out[at])
                self.waiting = []
            self.out.append(new)
        return fields, bool(fields) and fields[-1] in (b"\n", b"\r\n")

    def entity(self, default):
        """Walk over a header and what it is the header of, up to a delimiter or the end."""
        start = len(self.out)
        fields, is_whole = self.header()
        fields = [field.replace(b"\r\n", b"\n") for field in fields]
        known = [field for field in fields if field in CONTENT]
        kind, boundary = CONTENT[known[0]] if known else (default, b"")
        encodings = [field for field in fields if field in (BASE64, EIGHT_BIT)]
        is_identity = encodings[:1] != [BASE64]
        if kind in BECOMES and is_identity:
            self.waiting.append((start + fields.index(known[0]), kind))
        if not is_whole:
            return
        if kind.startswith("multipart/") and boundary:
            self.multipart(boundary, "message/rfc822" if kind == "multipart/digest" else "")
        elif kind.endswith("delivery-status") and is_identity:
            while is_whole:
                _, is_whole = self.header()
        elif kind.startswith("message/") and is_identity:
            self.entity("")

    def body(self):
        """Send lines up to a delimiter."""
        while self.lines and not self.delimiter():
            self.out.append(self.lines.popleft())

    def multipart(self, boundary, default):
        """Walk over parts; what delimits an outer multipart ends this one."""
        level = len(self.boundaries)
        self.boundaries.append(boundary)
        waiting = self.waiting
        while True:
            self.body()
            found = self.delimiter()
            if not found or found[0] < level:
                break
            self.out.append(self.lines.popleft())
            self.waiting = [each for each in self.waiting if each in waiting]
            if found[1]:
                break
            self.entity(default)
        del self.boundaries[level:]
        waiting[:] = [each for each in waiting if each in self.waiting]
        self.body()


class StreamTests(SynchronousTestCase):
    """The walk, by its rules and at every split."""

    def assertConsistent(self, text, *chunkings):
        """All ways to cut a message give one outcome, and the counts fit it; return it."""
        whole = downgraded(text)
        octets = count_octets([text])
        lines = b"\n" + text.replace(b"\r\n", b"\n")
        changed = None if whole == text else count_octets([whole])
        sizes = Sizes(octets, changed, b"\n\n" in lines)
        found = counted(text)
        # Beyond the bounds, which some tests make small, there is no downgraded form.
        self.assertIn(found, (sizes, sizes._replace(downgraded=0)))
        sizes = found
        for chunks in chunkings:
            self.assertEqual(downgraded(*chunks), whole)
            self.assertEqual(counted(*chunks), sizes)
        return whole

    @given(chunked())
    @example((b"--a\n", [b"--a\n"]))
    def test_naive(self, case):
        """A message becomes what a walk over the whole of it makes, wherever it is cut."""
        text, chunks = case
        octets = [text[at : at + 1] for at in range(len(text))]
        self.assertEqual(self.assertConsistent(text, chunks, octets), NaiveWalk(text).run())

    @given(chunked(st.binary(max_size=200)))
    def test_any_bytes(self, case):
        """Any bytes are taken; without valid UTF-8 in a field they come out as they went in."""
        text, chunks = case
        self.assertConsistent(text, chunks)

    def test_every_split(self):
        """Two chunks, cut at every point, give what one chunk gives."""
        for text in [BOUNCE, BOUNCE.replace(b"\n", b"\r\n"), *ODD]:
            cuts = ([text[:cut], text[cut:]] for cut in range(len(text) + 1))
            self.assertConsistent(text, *cuts)

    @given(chunked())
    def test_small_bounds(self, case):
        """Past the bounds things pass as they are, and no cut changes where."""
        text, chunks = case
        octets = [text[at : at + 1] for at in range(len(text))]
        for bound, value in [
            ("_MAX_HEADER", 30),
            ("_MAX_FIELD", 20),
            ("_MAX_DOWNGRADED", 20),
            ("_MAX_FIELDS", 1),
            ("_MAX_EFFORT", 25),
            ("_MAX_DEPTH", 1),
            ("_MAX_DELIMITER", 4),
            ("_MAX_HELD", 40),
            ("_EARLY", 10),
        ]:
            where = sizes if bound == "_EARLY" else downgrade
            with patch.object(where, bound, value):
                self.assertConsistent(text, chunks, octets)

    def test_fell_short(self):
        """A message that may have a field beyond the bounds has no downgraded form."""
        for message, fits in [
            (SUBJECT + b"\n", True),
            (b"x: " + "\xe4".encode() * 17_000 + b"\n\nbody\n", False),
            (b"x: " + b"\xe4" * 34_000 + b"\n\nbody\n", True),
            ((b"x: " + "\xe4".encode() * 12_000 + b"\n") * 3, False),
            (SUBJECT + b"x: y\n" * 220_000, False),
            (b"x: \xe4\n" + b"x: y\n" * 220_000, False),
            (b"x: \xe4\n" * 1999 + SUBJECT + b"\n", True),
            (b"x: \xe4\n" * 2000 + SUBJECT + b"\n", False),
            (b"x: y\n" * 220_000, True),
        ]:
            sizes = measure([message])
            self.assertEqual(sizes.octets, count_octets([message]))
            self.assertEqual(sizes.downgraded != 0, fits, repr(message[:20]))

    def test_no_delimiter_is_that_long(self):
        """A line that is too long for a delimiter comes out before its end is known."""
        downgrader = Downgrader()
        head = "Subject: \xe4\nContent-Type: multipart/mixed; boundary=a\n\n".encode()
        downgrader.feed(head)
        self.assertEqual(downgrader.feed(b"--a"), b"")
        line = b"--a" + b" " * 2000
        self.assertEqual(downgrader.feed(line[3:]), line)

    def test_early(self):
        """A header comes out with its empty line, and a body as it comes in."""
        downgrader = Downgrader()
        self.assertEqual(downgrader.feed(SUBJECT + b"x: y"), b"")
        self.assertEqual(downgrader.feed(b"\n\nbo"), DOWN + b"x: y\n\nbo")
        self.assertEqual(downgrader.feed(b"dy"), b"dy")
        downgrader = Downgrader()
        head = b"Content-Type: multipart/mixed; boundary=ab\n\n"
        self.assertEqual(downgrader.feed(head + b"one\n--a"), head + b"one\n")
        self.assertEqual(downgrader.feed(b"c\ntwo\n--ab"), b"--ac\ntwo\n")
        self.assertEqual(downgrader.feed(b"\n\n-"), b"--ab\n\n")
        self.assertEqual(downgrader.finish(), b"-")

    def test_top(self):
        """TOP gets the top of the downgraded form."""
        framer = TopFramer(1)
        sent = framer.feed(downgraded(SUBJECT + b"\n1\n2\n"))
        self.assertEqual(sent, DOWN.replace(b"\n", b"\r\n") + b"\r\n1\r\n")


class StructureTests(SynchronousTestCase):
    """Which headers are downgraded (RFC 6857 section 4)."""

    def assertParts(self, message, result):
        """In a message S lines are subjects to downgrade, and D lines are downgraded."""
        for end in (b"\n", b"\r\n"):
            text, wanted = (
                each.replace(b"\nS\n", b"\n" + SUBJECT)
                .replace(b"\nD\n", b"\n" + DOWN)
                .replace(b"\n", end)
                for each in (message, result)
            )
            self.assertEqual(downgraded(text), wanted)

    def test_bodies(self):
        """Bodies, preambles and epilogues are never changed."""
        self.assertParts(b"x: y\n\nS\n", b"x: y\n\nS\n")
        head = b"x: y\nContent-Type: multipart/mixed; boundary=a\n\nS\n--a\nS\n"
        done = head.removesuffix(b"S\n") + b"D\n"
        self.assertParts(head + b"\nS\n--a--\nS\n\nS\n", done + b"\nS\n--a--\nS\n\nS\n")
        self.assertParts(head + b"\nS\n", done + b"\nS\n")

    def test_delimiters(self):
        """A delimiter is a whole line, padding aside, and the innermost multipart's first."""
        head = b'Content-Type: multipart/mixed; boundary="=_a b"\n\n'
        for line in (b"--=_a b", b"--=_a b \t"):
            self.assertParts(head + line + b"\nS\n\n", head + line + b"\nD\n\n")
        for line in (b"--=_a bc", b" --=_a b", b"--=_a", b"--=_A B", b"--=_a b" + b" " * 1000):
            self.assertParts(head + line + b"\nS\n\n", head + line + b"\nS\n\n")

    def test_boundaries(self):
        """A boundary is found however it is written."""
        for value in (
            b'multipart/mixed; BOUNDARY = "a:b"',
            b"Multipart/Mixed (c; boundary=x);\n boundary=a:b (d)",
            b"multipart/mixed; x=y; boundary*0=a; boundary*1*=%3ab",
            b"multipart/mixed; boundary*0*=us-ascii'en'a%3a; boundary*1=b",
            b"multipart/mixed; boundary*=''a%3Ab",
            b'multipart/mixed; boundary="a:b "; boundary=c',
        ):
            head = b"Content-Type-X: y\nContent-Type \t:" + value + b"\n\n--a:b\n"
            self.assertParts(head + b"S\n\n", head + b"D\n\n")

    def test_raw_boundary(self):
        """A boundary beyond ASCII is the octets that it is."""
        for boundary in (UMLAUT, b"\xfc"):
            head = b'Content-Type: multipart/mixed; boundary="' + boundary + b'"\n\n--' + boundary
            self.assertTrue(downgraded(head + b"\n" + SUBJECT + b"\n").endswith(DOWN + b"\n"))

    def test_no_multipart(self):
        """Without a boundary, or in a field too long, nothing is found."""
        for field in (
            b"Content-Type: multipart/mixed",
            b"Content-Type: multipart/mixed; boundary=",
            b"Content-Type: text/plain; x=multipart/mixed; boundary=a",
            b"Content-Type\nx: multipart/mixed; boundary=a",
            b"Content-Type: multipart/mixed; boundary=a" + b" " * 70000,
        ):
            self.assertParts(field + b"\n\n--a\nS\n\n", field + b"\n\n--a\nS\n\n")

    def test_embedded_messages(self):
        """A message within a message has a header, unless it is encoded."""
        for encoding in (b"7bit", b"8BIT", b"binary (x)"):
            head = b"Content-Type: message/rfc822\nContent-Transfer-Encoding: " + encoding
            self.assertParts(head + b"\n\nx: y\nS\n\nS\n", head + b"\n\nx: y\nD\n\nS\n")
        for encoding in (b"base64", b"Quoted-Printable", b"x-uuencode"):
            head = b"Content-Transfer-Encoding: " + encoding + b"\nContent-Type: message/rfc822"
            self.assertParts(head + b"\n\nS\n\n", head + b"\n\nS\n\n")

    def test_digest(self):
        """A part of a digest is a message unless it says otherwise (RFC 2046 section 5.1.5)."""
        head = b"Content-Type: multipart/digest; boundary=a\n\n--a\n"
        self.assertParts(head + b"\nx: y\nS\n\n", head + b"\nx: y\nD\n\n")
        head += b"Content-Type: text/plain\n"
        self.assertParts(head + b"\nx: y\nS\n\n", head + b"\nx: y\nS\n\n")

    def test_depth(self):
        """Multiparts are entered a hundred deep."""

        def nested(depth):
            return b"".join(
                b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (level, level)
                for level in range(depth)
            )

        self.assertParts(nested(100) + b"S\n\n", nested(100) + b"D\n\n")
        self.assertParts(nested(101) + b"S\n\n", nested(101) + b"S\n\n")

    def test_long_header(self):
        """A header or a field past its bound passes as it is."""
        for filler in (b"x: y\n" * 210_000, b"x: " + b"y" * (1 << 20) + b"\n"):
            self.assertEqual(downgraded(SUBJECT + filler + b"\n"), SUBJECT + filler + b"\n")
        head = b"Content-Type: multipart/mixed; boundary=a\n\n--a\n"
        message = head + SUBJECT + filler + b"\n--a\n"
        self.assertTrue(downgraded(message + SUBJECT + b"\n").endswith(b"\n--a\n" + DOWN + b"\n"))
        field = b"Subject: " + UMLAUT * 40_000 + b"\n"
        self.assertEqual(downgraded(field + SUBJECT + b"\n"), field + DOWN + b"\n")

    def test_many_parts(self):
        """After ten thousand parts the rest passes as it is."""
        head = b"Content-Type: multipart/mixed; boundary=a\n\n"
        message = head + b"--a\n\n" * 9_998 + b"--a\n" + SUBJECT
        self.assertTrue(downgraded(message + b"\n").endswith(DOWN + b"\n"))
        self.assertTrue(downgraded(message + b"\n--a\n" + SUBJECT).endswith(b"\n--a\n" + SUBJECT))

    def test_look_alikes(self):
        """After a hundred thousand lines that only look like delimiters it is the same."""
        head = b"Content-Type: multipart/mixed; boundary=a\n\n"
        for lines, last in ((90_000, DOWN), (110_000, SUBJECT)):
            for before in (b"", b"--a\n"):
                message = head + before + b"--a-\n" * lines + b"--a\n" + SUBJECT + b"\n"
                self.assertTrue(downgraded(message).endswith(last + b"\n"))


BOUNCE = (
    b"Subject: Bounce\nContent-Type: multipart/report; boundary=a;\n report-type=delivery-status\n"
    b"\n--a\n\nIt bounced.\n"
    b"--a\nContent-Type: message/global-delivery-status\n"
    b"\nReporting-MTA: dns; x\n"
    b"\nFinal-Recipient: utf-8; " + UMLAUT + b"@b\nDiagnostic-Code: smtp; 550 " + UMLAUT + b"\n"
    b"\n--a\nContent-Type: message/global\n"
    b"\n" + SUBJECT + b"Content-Type: multipart/mixed; boundary=aa\n"
    b"\n--aa\nContent-Disposition: attachment; filename=" + UMLAUT + b"\n"
    b"\n" + UMLAUT + b"\n--aa--\n--a--\n"
)
"""What a server sends that could not deliver an internationalized message (RFC 6533)."""

ODD = [
    b"",
    b"\r",
    b"\n",
    b"Subject: " + UMLAUT,
    b"Subject: " + UMLAUT + b"\r",
    SUBJECT + b"\r\r\n\n" + SUBJECT,
    b" " + UMLAUT + b"\n" + SUBJECT,
]


class GlobalTests(SynchronousTestCase):
    """RFC 6857 section 4.2, RFC 6532 section 3.7 and RFC 6533 section 4.4."""

    def test_bounce(self):
        """A report on an internationalized message becomes one that old clients read."""
        result = downgraded(BOUNCE)
        for line in (
            b"Content-Type: message/delivery-status\n\nReporting",
            b"\nFinal-Recipient: utf-8; \\x{FC}@b\n",
            b"\nDiagnostic-Code: smtp; 550 =?UTF-8?B?w7w=?=\n",
            b"\nContent-Type: message/rfc822\n\n" + DOWN,
            b"\nContent-Disposition: attachment; filename*=UTF-8''%C3%BC\n\n" + UMLAUT,
        ):
            self.assertIn(line, result)
        self.assertNotIn(b"global", result)
        _, status, returned = message_from_bytes(result, policy=policy).iter_parts()
        self.assertEqual(len(status.get_payload()), 2)
        [original] = returned.get_payload()
        self.assertEqual(original["subject"], "\xfc")
        self.assertEqual([part.get_filename() for part in original.iter_parts()], ["\xfc"])

    def test_names(self):
        """A type is renamed if something within it was downgraded, and else is not."""
        for old, new in [
            (b"message/global", b"message/rfc822"),
            (b"Message/Global; x=y", b"message/rfc822; x=y"),
            (b"message/global-headers", b"text/rfc822-headers"),
            (b"message/global-disposition-notification", b"message/disposition-notification"),
            (b"message/rfc822", b"message/rfc822"),
            (b"message/disposition-notification", b"message/disposition-notification"),
        ]:
            head = b"X: " + UMLAUT + b"\nContent-Type: %b\n\n"
            down = b"X: =?UTF-8?B?w7w=?=\nContent-Type: %b\n\n"
            self.assertEqual(downgraded(head % old + SUBJECT), down % new + DOWN)
            self.assertEqual(downgraded(head % old + b"x: y\n\n"), down % old + b"x: y\n\n")

    def test_encoded(self):
        """One that is encoded is not looked into (RFC 6532 section 3.5)."""
        text = b"Content-Type: message/global\nContent-Transfer-Encoding: base64\n\n" + SUBJECT
        self.assertEqual(downgraded(text), text)

    def test_deep(self):
        """A field of a part far within renames all that it is within, and nothing else."""
        multi = b"Content-Type: multipart/mixed; boundary=%b\n\n--%b\n"
        part = b"Content-Type: message/%b\n\n"
        text = (
            multi % (b"a", b"a")
            + part % b"%b"
            + b"x: y\n\n--a\n"
            + part % b"%b"
            + multi % (b"b", b"b")
            + part % b"%b"
            + multi % (b"c", b"c")
        ).replace(b"%b", b"%b")
        old = text % (b"global", b"global", b"global") + SUBJECT
        new = text % (b"global", b"rfc822", b"rfc822") + DOWN
        self.assertEqual(downgraded(old + b"\n"), new + b"\n")

    def test_held(self):
        """It is held back until something within it changes, it ends, or it is long."""
        head = b"Content-Type: multipart/mixed; boundary=a\n\n--a\n"
        part = b"Content-Type: message/global\n\n"
        downgrader = Downgrader()
        self.assertEqual(downgrader.feed(head + part + b"x: y\n\nbody\n"), head)
        self.assertEqual(downgrader.feed(b"--a\n"), part + b"x: y\n\nbody\n--a\n")
        self.assertEqual(downgrader.feed(part + SUBJECT), b"")
        self.assertEqual(downgrader.feed(b"\n"), b"Content-Type: message/rfc822\n\n" + DOWN + b"\n")
        downgrader = Downgrader()
        self.assertEqual(downgrader.feed(part + b"x: y\n\nbody"), b"")
        self.assertEqual(downgrader.finish(), part + b"x: y\n\nbody")
        downgrader = Downgrader()
        self.assertEqual(downgrader.feed(part + b"x: y\n\n"), b"")
        long = b"z" * 70_000
        self.assertEqual(downgrader.feed(long), part + b"x: y\n\n" + long)
        self.assertEqual(downgrader.feed(b"more"), b"more")


class CounterTests(SynchronousTestCase):
    """Both sizes, from one reading."""

    def test_ascii(self):
        """A message in ASCII is counted without a look at its structure."""
        with patch.object(downgrade, "Downgrader", side_effect=AssertionError):
            self.assertEqual(counted(b"a: b\n\nx\n", b"y"), Sizes(14, None))

    def test_late(self):
        """A part that comes late is found, however much ASCII is before it."""
        head = b"Content-Type: multipart/mixed; boundary=a\n\n"
        for filler in (b"x\n" * 10, b"x\n" * 1_000_000):
            message = head + filler + b"--a\n" + SUBJECT + b"\n"
            chunks = [message[at : at + 100_000] for at in range(0, len(message), 100_000)]
            sizes = counted(*chunks)
            self.assertEqual(sizes.octets, count_octets([message]))
            self.assertEqual(sizes.downgraded, count_octets([downgraded(message)]))

    def test_eight_bit_bodies(self):
        """A message with only its body beyond ASCII has one size."""
        self.assertIsNone(counted(b"a: b\n\n" + UMLAUT).downgraded)
        self.assertIsNone(counted(b"Subject: \xfc\n\n").downgraded)


class RealMailTests(SynchronousTestCase):
    """Mail that others wrote."""

    def test_email_reads_the_same(self):
        """Python's email package finds the same subjects, names and files before and after."""
        text = (
            "Subject: Gr\xfc\xdfe aus K\xf6ln \u4e00\u4e8c\n"
            "From: J\xf6rg <joerg@example.net>\n"
            "Content-Type: multipart/mixed; boundary=a\n\n--a\n"
            'Content-Disposition: attachment; filename="\xdcbersicht.pdf"\n\nx\n--a\n'
            "Content-Type: message/rfc822\n\nSubject: \xc4rger\n\n\xe4\n--a--\n"
        )

        def shown(message):
            return [
                (part["subject"], part["from"] and part["from"].addresses, part.get_filename())
                for part in message.walk()
            ]

        result = downgraded(text.encode())
        self.assertEqual(
            shown(message_from_bytes(result, policy=policy)),
            shown(message_from_string(text, policy=policy)),
        )

    def test_python_mails(self):
        """The test mails of Python's email package come out as they are; they have no UTF-8."""
        spec = find_spec("test")
        found = Path(spec.origin).parent.glob("test_email/data/msg_*.txt") if spec else []
        for path in found:
            for message in (path.read_bytes(), path.read_bytes().replace(b"\n", b"\r\n")):
                self.assertEqual(downgraded(message), message)
                marked = message + b"\n" + UMLAUT
                self.assertEqual(counted(marked)[:2], (count_octets([marked]), None))
