"""Tests of popserv.messages.downgrade.downgrader, against a naive walk and real mail."""

import re
from collections import deque
from email import message_from_bytes, message_from_string
from email.policy import default as policy
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.page_cache import CHUNK
from popserv.messages import sizes as sizes_module
from popserv.messages.downgrade import content, downgrader, headers, held_output, multiparts
from popserv.messages.downgrade.content import read_content
from popserv.messages.downgrade.downgrader import Downgrader
from popserv.messages.fields.table import downgrade_field
from popserv.messages.framing import TopFramer
from popserv.messages.octets import count_octets
from popserv.messages.sizes import Sizes, measure
from tests.memory import MIB, peak_of
from tests.messages.downgrade.harness import (
    BOUNCE,
    DOWNGRADED_SUBJECT,
    SIGNED,
    SIGNED_PARTS,
    SUBJECT,
    UMLAUT,
    StructureTestCase,
    downgrade,
    messages,
)
from tests.messages.harness import chunked

NEW_TYPES = {
    "message/global": b"message/rfc822",
    "message/global-headers": b"text/rfc822-headers",
    "message/global-delivery-status": b"message/delivery-status",
}

EMBEDDED = ("message/rfc822", "message/global", "message/global-headers")
FIELD_GROUPS = ("message/delivery-status", "message/global-delivery-status")

UNUSUAL_MESSAGES = [
    b"",
    b"\r",
    b"\n",
    b"Subject: " + UMLAUT,
    b"Subject: " + UMLAUT + b"\r",
    SUBJECT + b"\r\r\n\n" + SUBJECT,
    b" " + UMLAUT + b"\n" + SUBJECT,
]

LIMITS = [
    (downgrader, "MAX_HEADER", 30),
    (content, "MAX_FIELD", 20),
    (headers, "MAX_FIELD", 20),
    (headers, "MAX_DOWNGRADED", 20),
    (headers, "MAX_FIELDS", 1),
    (multiparts, "MAX_WORK", 25),
    (downgrader, "MAX_DEPTH", 1),
    (multiparts, "MAX_DELIMITER", 4),
    (held_output, "MAX_HELD", 40),
    (sizes_module, "_MAX_BUFFERED", 10),
]
"""A small value for each limit."""


class NaiveWalk:
    """Downgrades a message line by line, all of it in memory.

    ``output`` is its fields and lines; ``waiting`` has the indices of those fields that name a
    type which changes if a field inside is downgraded.  ``protected`` is the number of signed and
    encrypted multiparts around the next line; ``is_refused`` tells whether a field in one of them
    would have to be downgraded.
    """

    def __init__(self, message):
        self.lines = deque(re.findall(rb"[^\n]*\n|[^\n]+", message))
        self.boundaries = []
        self.output = []
        self.waiting = []
        self.protected = 0
        self.is_refused = False

    def run(self):
        """Return the downgraded message."""
        self.walk_entity("")
        self.walk_body()
        return b"".join(self.output)

    def next_delimiter(self):
        """Return (level, whether it is the close delimiter) if the next line is a delimiter."""
        if self.lines and self.lines[0].endswith(b"\n"):
            text = self.lines[0][:-1].removesuffix(b"\r").rstrip(b" \t")
            for level in reversed(range(len(self.boundaries))):
                for end in (b"", b"--"):
                    if text == b"--" + self.boundaries[level] + end:
                        return level, bool(end)
        return None

    def walk_header(self):
        """Output a header downgraded; return its fields, and whether an empty line ends it."""
        fields = []
        while self.lines and not self.next_delimiter():
            line = self.lines.popleft()
            if line in (b"\n", b"\r\n"):
                fields.append(line)
                break
            if line[:1] in (b" ", b"\t") and fields:
                fields[-1] += line
            else:
                fields.append(line)
        for field in fields:
            new = downgrade_field(field)
            if self.protected:
                self.is_refused |= new is not field
                new = field
            if new is not field:
                for at, old_type in self.waiting:
                    pattern = re.compile(re.escape(old_type.encode()), re.IGNORECASE)
                    self.output[at] = pattern.sub(NEW_TYPES[old_type], self.output[at], count=1)
                self.waiting = []
            self.output.append(new)
        return fields, bool(fields) and fields[-1] in (b"\n", b"\r\n")

    def walk_entity(self, default_type):
        """Walk over a header and its body, up to a delimiter or the end."""
        start = len(self.output)
        fields, has_blank_line = self.walk_header()
        media_type, boundary, is_identity = read_content(b"".join(fields), default_type)
        if media_type in NEW_TYPES and is_identity and not self.protected:
            is_content_type = re.compile(rb"content-type[ \t]*:", re.IGNORECASE).match
            index = next(at for at, field in enumerate(fields) if is_content_type(field))
            self.waiting.append((start + index, media_type))
        if not has_blank_line:
            return
        if media_type.startswith("multipart/") and boundary:
            is_digest = media_type == "multipart/digest"
            protected = self.protected
            self.protected += media_type in ("multipart/signed", "multipart/encrypted")
            self.walk_multipart(boundary, "message/rfc822" if is_digest else "")
            self.protected = protected
        elif media_type in FIELD_GROUPS and is_identity:
            while has_blank_line:
                _, has_blank_line = self.walk_header()
        elif media_type in EMBEDDED and is_identity:
            self.walk_entity("")

    def walk_body(self):
        """Output lines up to a delimiter."""
        while self.lines and not self.next_delimiter():
            self.output.append(self.lines.popleft())

    def walk_multipart(self, boundary, default_type):
        """Walk over parts; a delimiter of an outer multipart ends this one."""
        level = len(self.boundaries)
        self.boundaries.append(boundary)
        waiting = self.waiting
        while True:
            self.walk_body()
            delimiter = self.next_delimiter()
            if not delimiter or delimiter[0] < level:
                break
            self.output.append(self.lines.popleft())
            self.waiting = [each for each in self.waiting if each in waiting]
            if delimiter[1]:
                break
            self.walk_entity(default_type)
        del self.boundaries[level:]
        waiting[:] = [each for each in waiting if each in self.waiting]
        self.walk_body()


class StreamTests(SynchronousTestCase):
    """A message is downgraded as it streams, wherever it is cut into chunks."""

    def assertConsistent(self, text, *chunkings):
        """Assert that each way to cut a message gives one result, of the sizes measured.

        Return the result.
        """
        whole = downgrade(text)
        octets = count_octets([text])
        lines = b"\n" + text.replace(b"\r\n", b"\n")
        downgraded = None if whole == text else count_octets([whole])
        sizes = Sizes(octets, downgraded, b"\n\n" in lines)
        measured = measure([text], Downgrader)
        # Beyond the limits, which some tests make small, there is no downgraded form.
        self.assertIn(measured, (sizes, sizes._replace(downgraded=0)))
        for chunks in chunkings:
            self.assertEqual(downgrade(*chunks), whole)
            self.assertEqual(measure(chunks, Downgrader), measured)
        return whole

    @given(chunked(messages))
    @example((b"--a\n", [b"--a\n"]))
    def test_naive(self, case):
        """The result is that of a walk over the whole message in memory."""
        text, chunks = case
        octets = [text[at : at + 1] for at in range(len(text))]
        walk = NaiveWalk(text)
        self.assertEqual(self.assertConsistent(text, chunks, octets), walk.run())
        self.assertEqual(measure([text], Downgrader).downgraded == 0, walk.is_refused)

    @given(chunked(st.binary(max_size=200)))
    def test_any_bytes(self, case):
        """Any octets are accepted, and give the same result in any chunks."""
        text, chunks = case
        self.assertConsistent(text, chunks)

    def test_every_split(self):
        """Two chunks, cut at every octet, give the same result as one chunk."""
        texts = [BOUNCE, SIGNED, *SIGNED_PARTS.values()]
        texts += [text.replace(b"\n", b"\r\n") for text in texts]
        for text in [*texts, *UNUSUAL_MESSAGES]:
            cuts = ([text[:cut], text[cut:]] for cut in range(len(text) + 1))
            self.assertConsistent(text, *cuts)

    @given(chunked(messages))
    def test_small_limits(self, case):
        """Parts beyond the limits are the same in any chunks."""
        text, chunks = case
        octets = [text[at : at + 1] for at in range(len(text))]
        for module, limit, value in LIMITS:
            with patch.object(module, limit, value):
                self.assertConsistent(text, chunks, octets)

    def test_streaming(self):
        """A header is output with its empty line, and a body as it comes in."""
        downgrader = Downgrader()
        self.assertEqual(downgrader.feed(SUBJECT + b"x: y"), b"")
        self.assertEqual(downgrader.feed(b"\n\nbo"), DOWNGRADED_SUBJECT + b"x: y\n\nbo")
        self.assertEqual(downgrader.feed(b"dy"), b"dy")
        downgrader = Downgrader()
        head = b"Content-Type: multipart/mixed; boundary=ab\n\n"
        self.assertEqual(downgrader.feed(head + b"one\n--a"), head + b"one\n")
        self.assertEqual(downgrader.feed(b"c\ntwo\n--ab"), b"--ac\ntwo\n")
        self.assertEqual(downgrader.feed(b"\n\n-"), b"--ab\n\n")
        self.assertEqual(downgrader.finish(), b"-")

    def test_top(self):
        """TOP sends the top of the downgraded form."""
        framer = TopFramer(1)
        sent = framer.feed(downgrade(SUBJECT + b"\n1\n2\n"))
        self.assertEqual(sent, DOWNGRADED_SUBJECT.replace(b"\n", b"\r\n") + b"\r\n1\r\n")


class StructureTests(StructureTestCase):
    """The headers of MIME parts and of embedded messages are downgraded (RFC 6857 section 4)."""

    def test_bodies(self):
        """Bodies, preambles and epilogues pass unchanged."""
        self.assertParts(b"x: y\n\nS\n", b"x: y\n\nS\n")
        head = b"x: y\nContent-Type: multipart/mixed; boundary=a\n\nS\n--a\nS\n"
        result = head.removesuffix(b"S\n") + b"D\n"
        self.assertParts(head + b"\nS\n--a--\nS\n\nS\n", result + b"\nS\n--a--\nS\n\nS\n")
        self.assertParts(head + b"\nS\n", result + b"\nS\n")

    def test_embedded_messages(self):
        """An embedded message has a header, unless it is encoded."""
        for encoding in (b"7bit", b"8BIT", b"binary (x)"):
            head = b"Content-Type: message/rfc822\nContent-Transfer-Encoding: " + encoding
            self.assertParts(head + b"\n\nx: y\nS\n\nS\n", head + b"\n\nx: y\nD\n\nS\n")
        for encoding in (b"base64", b"Quoted-Printable", b"x-uuencode"):
            head = b"Content-Transfer-Encoding: " + encoding + b"\nContent-Type: message/rfc822"
            self.assertParts(head + b"\n\nS\n\n", head + b"\n\nS\n\n")

    def test_depth(self):
        """Multiparts are entered up to a depth of a hundred."""

        def nested(depth):
            return b"".join(
                b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (level, level)
                for level in range(depth)
            )

        self.assertParts(nested(100) + b"S\n\n", nested(100) + b"D\n\n")
        self.assertParts(nested(101) + b"S\n\n", nested(101) + b"S\n\n")
        for depth, needs_utf8 in ((100, False), (101, True)):
            body = nested(depth) + b"\n" + UMLAUT + b"\n"
            for message in (body, body + b"--b5\n\n"):
                self.assertEqual(measure([message], Downgrader).downgraded == 0, needs_utf8)
        self.assertIsNone(measure([nested(101) + b"--b5\n\n" + UMLAUT], Downgrader).downgraded)

    def test_long_header(self):
        """A header over 1 MiB passes unchanged, and the header of the next part is downgraded."""
        for filler in (b"x: y\n" * 210_000, b"x: " + b"y" * (1 << 20) + b"\n"):
            self.assertEqual(downgrade(SUBJECT + filler + b"\n"), SUBJECT + filler + b"\n")
        head = b"Content-Type: multipart/mixed; boundary=a\n\n--a\n"
        message = head + SUBJECT + filler + b"\n--a\n"
        result = downgrade(message + SUBJECT + b"\n")
        self.assertTrue(result.endswith(b"\n--a\n" + DOWNGRADED_SUBJECT + b"\n"))

    def test_longest_header(self):
        """A header of 1 MiB is downgraded, with an empty line or without; a longer one is not."""
        for end in (b"\n", b""):
            for octets, result in ((1 << 20, DOWNGRADED_SUBJECT), ((1 << 20) + 1, SUBJECT)):
                header = (SUBJECT + b"x: y").ljust(octets - 1 - len(end), b"y") + b"\n" + end
                for chunks in ([header], [header[:-1], header[-1:]]):
                    self.assertEqual(downgrade(*chunks), result + header[len(SUBJECT) :])

    def test_after_long_header(self):
        """After a header that is too long a delimiter is one only at the start of a line."""
        self.patch(downgrader, "MAX_HEADER", 50)
        head = b"Content-Type: multipart/mixed; boundary=a\n\n--a\n"
        for start, result in (
            (b"x: y".ljust(49, b"y") + b"\n", DOWNGRADED_SUBJECT),
            (b"x: y".ljust(50, b"y"), SUBJECT),
        ):
            message = head + start + b"--a\n"
            self.assertEqual(downgrade(message + SUBJECT + b"\n"), message + result + b"\n")

    def test_header_up_to_delimiter(self):
        """A delimiter ends a header, however the message is cut, and the part has no body."""
        head = b"Content-Type: multipart/mixed; boundary=a\n\n--a\n"
        head += b"Content-Type: message/rfc822\n--a\n"
        message = head + SUBJECT + b"\n" + SUBJECT
        for cut in range(len(message)):
            result = downgrade(message[:cut], message[cut:])
            self.assertEqual(result, head + DOWNGRADED_SUBJECT + b"\n" + SUBJECT, cut)

    def test_long_header_outside_ascii(self):
        """A header over 1 MiB and its body must be ASCII; the parts around it need not."""
        outer = b"Content-Type: multipart/mixed; boundary=a\n\nbefore\n--a\n\nx\n--a\n"
        header = b"X: start\n" + b"x: y\n" * 210_000 + b"Y: end\n\nbody\n"
        end = b"--a\n\nnext\n"
        for message in (header, outer + header, outer + header + end):
            self.assertIsNone(measure([message], Downgrader).downgraded)
            for text in (b"before", b"start", b"end", b"body", b"next"):
                changed = message.replace(text, UMLAUT)
                needs_utf8 = text in (b"start", b"end", b"body")
                for chunks in ([changed], [changed[:1000], changed[1000:], b"x"]):
                    sizes = measure(chunks, Downgrader)
                    self.assertEqual(sizes.downgraded, 0 if needs_utf8 else None, text)

    def test_exhausted_in_an_unread_part(self):
        """An unread part must be ASCII also before the line at which the work is used up."""
        self.patch(multiparts, "MAX_WORK", 25)
        self.patch(downgrader, "MAX_DEPTH", 1)
        outer = b"Content-Type: multipart/mixed; boundary=a\n\nbefore\n--a\n"
        inner = b"Content-Type: multipart/mixed; boundary=b\n\nbody\n"
        message = outer + inner + b"--ax\n" * 10
        for text, needs_utf8 in ((b"before", False), (b"body", True), (b"none", False)):
            changed = message.replace(text, UMLAUT)
            for at in range(len(changed) + 1):
                subject = Downgrader()
                output = subject.feed(changed[:at]) + subject.feed(changed[at:])
                self.assertEqual(output + subject.finish(), changed)
                self.assertEqual(subject.needs_utf8, needs_utf8, (text, at))

    def test_memory(self):
        """The memory is below 6 MiB, whatever a header consists of, and however large it is."""
        for field in (
            b"X: " + b"y" * 65 + b"\n",
            "Subject: {}\n".format("\xe4" * 100).encode(),
            "Subject: {}\n".format("\N{GRINNING FACE}" * 7000).encode(),
            "To: {}\n".format("\xe4 <a@b.example>, " * 1000).encode(),
        ):
            for octets in (MIB - 1000, 2 * MIB):
                message = field * (octets // len(field)) + b"\n" + b"x\n" * MIB
                result = Downgrader()

                def feed(message=message, result=result):
                    for at in range(0, len(message), CHUNK):
                        result.feed(message[at : at + CHUNK])
                    result.finish()

                self.assertLess(peak_of(feed), 6 * MIB, (field[:20], octets))


class RealMailTests(SynchronousTestCase):
    """Other programs read downgraded messages."""

    def test_email_reads_the_same(self):
        """Python's email package finds the same subjects, names and files before and after."""
        text = (
            "Subject: Gr\xfc\xdfe aus K\xf6ln \u4e00\u4e8c\n"
            "From: J\xf6rg <joerg@example.net>\n"
            "Content-Type: multipart/mixed; boundary=a\n\n--a\n"
            'Content-Disposition: attachment; filename="\xdcbersicht.pdf"\n\nx\n--a\n'
            "Content-Type: message/rfc822\n\nSubject: \xc4rger\n\n\xe4\n--a--\n"
        )

        def read(message):
            return [
                (part["subject"], part["from"] and part["from"].addresses, part.get_filename())
                for part in message.walk()
            ]

        result = downgrade(text.encode())
        self.assertEqual(
            read(message_from_bytes(result, policy=policy)),
            read(message_from_string(text, policy=policy)),
        )

    def test_python_mails(self):
        """The test messages of Python's email package, which have no UTF-8, pass unchanged."""
        spec = find_spec("test")
        found = Path(spec.origin).parent.glob("test_email/data/msg_*.txt") if spec else []
        for path in found:
            for message in (path.read_bytes(), path.read_bytes().replace(b"\n", b"\r\n")):
                self.assertEqual(downgrade(message), message)
                marked = message + b"\n" + UMLAUT
                self.assertEqual(measure([marked], Downgrader)[:2], (count_octets([marked]), None))
