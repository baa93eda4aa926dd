"""popserv.maildrops.mbox.parser: the messages of a file, as other readers find them."""

import mailbox
import os
import re
from hashlib import blake2b
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.mbox import parser, window
from popserv.maildrops.mbox.from_line import MAX_LENGTH, from_line_length
from popserv.maildrops.mbox.index import read_index
from popserv.maildrops.mbox.parser import DEFAULT_FORMAT, Format, NotAnMbox, parse
from popserv.maildrops.mbox.window import Window
from popserv.messages.downgrade import Downgrader
from popserv.messages.sizes import measure
from tests.maildrops.mbox.harness import FROM_LINE, mbox_of, stored
from tests.memory import MIB, growth_of, peak_of

MBOXRD = Format(believes_content_length=False, is_quoted=True)
MBOXO = Format(believes_content_length=False)

DATE = b"Mon Jan  5 10:00:00 2026"

LINES = st.lists(
    st.sampled_from(
        [
            *(b"From ann " + DATE + b"\n", b"From ann " + DATE + b"\r\n", b"From here\n"),
            *(b">From ann\n", b">>From ann\n", b"\n", b"\n", b"\r\n", b"text\n", b"\r", b"x"),
            *(b"Subject: x\n", b"Content-Length: 5\n", b"Status: RO\n", b"\xc3\xa9\n", b"From "),
        ]
    ),
    max_size=14,
)


class Opened(SynchronousTestCase):
    """Files of messages."""

    def open(self, octets):
        """Return a window on a file."""
        self.path = self.mktemp()
        with open(self.path, "wb") as file:
            file.write(octets)
        fd = os.open(self.path, os.O_RDONLY)
        self.addCleanup(os.close, fd)
        return Window(fd, len(octets))

    def entries(self, octets, mbox_format=DEFAULT_FORMAT, downgrader=None):
        """Return the messages of a file."""
        return list(parse(self.open(octets), 0, mbox_format, downgrader))

    def texts(self, octets, mbox_format=DEFAULT_FORMAT):
        """Return the octets of the messages of a file."""
        return [octets[each.start : each.end] for each in self.entries(octets, mbox_format)]


def naive_texts(octets):
    """Return the messages of a file without Content-Length, found line by line, as an oracle."""
    messages = []
    for line in (
        octets.lstrip(b"\r\n").splitlines(keepends=True)
        if b"\r" not in octets
        else (re.findall(rb"[^\n]*\n|[^\n]+\Z", octets.lstrip(b"\r\n")))
    ):
        if from_line_length(line):
            messages.append([])
        else:
            messages[-1].append(line)
    texts = []
    for lines in messages:
        # A blank line at the end belongs to the file.
        if lines and lines[-1] in (b"\n", b"\r\n"):
            lines.pop()
        texts.append(b"".join(lines))
    return texts


class ParserTests(Opened):
    """The boundaries of messages."""

    @given(LINES, st.integers(1100, 1200), st.sampled_from([MBOXO, MBOXRD]))
    @settings(max_examples=300)
    def test_oracle(self, lines, block, mbox_format):
        """Messages are those between the lines that are From_ lines, in blocks of any size."""
        self.patch(window, "BLOCK", block)
        self.patch(parser, "BLOCK", block)
        octets = b"From ann " + DATE + b"\n" + b"".join(lines * 20)
        expected = naive_texts(octets)
        self.assertEqual(self.texts(octets, mbox_format), expected)
        for downgrader in (None, Downgrader):
            entries = self.entries(octets, mbox_format, downgrader)
            shown = (
                [re.sub(rb"(?m)^>(>*From )", rb"\1", text) for text in expected]
                if mbox_format.is_quoted
                else expected
            )
            self.assertEqual(
                [each.sizes for each in entries], [measure([text], downgrader) for text in shown]
            )

    @given(LINES)
    @settings(max_examples=200)
    def test_python(self, lines):
        """Python's mailbox finds the same messages, if each line with "From " is a From_ line."""
        octets = (
            b"From ann "
            + DATE
            + b"\n"
            + b"".join(
                line
                if line.endswith(b"\n") and b"\r" not in line and line != b"From here\n"
                else b"y\n"
                for line in lines
            )
        )
        texts = self.texts(octets, MBOXO)
        others = mailbox.mbox(self.path, create=False)
        try:
            found = [others.get_bytes(key) for key in others.keys()]  # noqa: SIM118
        finally:
            others.close()
        # Python keeps a blank line at the end of the file.
        self.assertEqual(
            [text.rstrip(b"\n") for text in texts], [text.rstrip(b"\n") for text in found]
        )

    def test_offsets(self):
        """An entry has the offsets of the From_ line, the message, and what follows."""
        octets = mbox_of([b"a\n\nb\n", b"c\n"])
        first, second = self.entries(octets)
        length = len(FROM_LINE % 0)
        self.assertEqual(first[:4], (0, length, length + 5, length + 6))
        self.assertEqual(second[:4], (length + 6, 2 * length + 6, 2 * length + 8, len(octets)))

    def test_no_blank_line(self):
        """The blank line before a From_ line, or at the end of the file, may be missing."""
        octets = FROM_LINE % 0 + b"a\n" + FROM_LINE % 1 + b"b\n\n" + FROM_LINE % 2 + b"half"
        self.assertEqual(self.texts(octets), [b"a\n", b"b\n", b"half"])
        self.assertEqual(self.texts(FROM_LINE % 0 + FROM_LINE % 1), [b"", b""])
        self.assertEqual(self.texts(b"From ann " + DATE), [b""])

    def test_no_body(self):
        """A message without a blank line does not have the fields of the next one."""
        message = FROM_LINE % 0 + b"Subject: x\n"
        fields = b"Status: RO\nX-UIDL: abc\nContent-Length: 5\n"
        first, second = self.entries(message + FROM_LINE % 1 + fields + b"\nbody\n")
        self.assertEqual([first], self.entries(message))
        self.assertEqual((first.x_uidl, first.is_read), (b"", False))
        self.assertEqual((second.x_uidl, second.is_read), (b"abc", True))

    def test_line_ends(self):
        """A file may have CRLF."""
        octets = mbox_of([b"a\n\nb\n", b"c\n"]).replace(b"\n", b"\r\n")
        self.assertEqual(self.texts(octets), [b"a\r\n\r\nb\r\n", b"c\r\n"])

    def test_not_an_mbox(self):
        """A file that does not start with a From_ line is none, but for blank lines before it."""
        for start in (b"Subject: x\n\n", b"X", b" \n"):
            with self.assertRaises(NotAnMbox):
                self.texts(start + stored(b"x\n"))
        self.assertEqual(self.texts(b"\n\r\n" + stored(b"x\n")), [b"x\n"])

    def test_quoted_end(self):
        """The octets of a message that ends like a quoted line are all counted."""
        [entry] = self.entries(FROM_LINE % 0 + b"A: b\n\n>From x\n>From", MBOXRD)
        self.assertEqual(entry.sizes, measure([b"A: b\n\nFrom x\n>From"]))

    def test_downgraded(self):
        """A message is measured in its downgraded form as well, if that is asked for."""
        message = b"Subject: \xc3\xa9\n\nbody\n"
        [entry] = self.entries(stored(message), DEFAULT_FORMAT, Downgrader)
        self.assertEqual(entry.sizes, measure([message], Downgrader))
        self.assertGreater(entry.sizes.downgraded, entry.sizes.octets)

    def test_internal_data(self):
        """The data message of c-client and Dovecot is left out, if it is the first."""
        data = (
            b"From MAILER-DAEMON Mon Jan  5 10:00:00 2026\n"
            b"Subject: DON'T DELETE THIS MESSAGE -- FOLDER INTERNAL DATA\n"
            b"X-IMAP: 1400000000 0000000003\nStatus: RO\n\nThis text is part of the format.\n\n"
        )
        message = stored(b"Subject: x\n\ny\n")
        self.assertEqual(self.texts(data + message), [b"Subject: x\n\ny\n"])
        self.assertEqual(len(self.texts(message + data)), 2)
        self.assertEqual(self.entries(data + message)[0].offset, len(data))
        for octets in (b"MAILER-DAEMON", b"X-IMAP", b"FOLDER"):
            self.assertEqual(len(self.texts(data.replace(octets, b"other") + message)), 2)
        quoted = data.replace(b"MAILER-DAEMON", b"ann").replace(b"This", b"From MAILER-DAEMON This")
        self.assertEqual(len(self.texts(quoted + message)), 2)


class ContentLengthTests(Opened):
    """Content-Length, which mboxcl2 needs to tell a line of a text from a From_ line."""

    body = b"one\n\nFrom ann " + DATE + b"\n\ntwo\n"

    def message(self, length, between=b"\n"):
        """Return a message of that Content-Length."""
        return b"%bContent-Length: %d\n\n%b%b" % (FROM_LINE % 0, length, self.body, between)

    def test_believed(self):
        """It is believed if a From_ line follows, or the end; a blank line may be before that."""
        header = b"Content-Length: %d\n\n" % len(self.body)
        for between in (b"", b"\n", b"\r\n"):
            for rest in (b"", stored(b"x\n")):
                texts = self.texts(self.message(len(self.body), between) + rest)
                self.assertEqual(texts, [header + self.body, *([b"x\n"] if rest else [])])

    def test_not_believed(self):
        """It is not believed if it leads elsewhere: to text, to a part of a line, or too far."""
        for length in (0, 1, len(self.body) - 1, len(self.body) + 2, 10**9, 10**15 - 1):
            texts = self.texts(self.message(length) + stored(b"x\n"))
            self.assertEqual(len(texts), 3, length)
        inside = b"%bContent-Length: 3\n\nabcFrom ann %b\n" % (FROM_LINE % 0, DATE)
        self.assertEqual(len(self.texts(inside)), 1)

    def test_far_away(self):
        """Many small messages whose Content-Length leads far away are read once."""
        message = FROM_LINE % 0 + b"Content-Length: %d\n\nx\n\n" % (window.BLOCK + 5000)
        octets = message * 200 + FROM_LINE % 1 + b"\n" + b"y" * 2 * window.BLOCK
        file = self.open(octets)
        self.assertEqual(len([*parse(file, 0, DEFAULT_FORMAT)]), 201)
        self.assertLess(file.octets_read, 3 * len(octets))

    def test_too_long_from_line(self):
        """It is not believed if it leads to a line that is too long for a From_ line."""
        rest = b"From ann %b %b\n\nx\n" % (DATE, b"x" * MAX_LENGTH)
        for between in (b"", b"\n", b"\r\n"):
            texts = self.texts(self.message(len(self.body), between) + rest)
            self.assertEqual(texts[1:], [b"\ntwo\n" + between + rest])

    def test_formats(self):
        """Mboxo and mboxrd have none."""
        octets = self.message(len(self.body))
        self.assertEqual(len(self.texts(octets)), 1)
        for mbox_format in (MBOXO, MBOXRD):
            self.assertEqual(len(self.texts(octets, mbox_format)), 2)

    def test_invalid(self):
        """What is not a number is ignored, and so is a header without end."""
        for value in (b"", b"-5", b"0x10", b"5 6", b"9" * 20):
            octets = self.message(1).replace(b": 1\n", b": %b\n" % value)
            self.assertEqual(len(self.texts(octets)), 2)
        self.assertEqual(len(self.texts(FROM_LINE % 0 + b"Content-Length: 0\n")), 1)


class DigestTests(Opened):
    """What identifies a message."""

    def digest(self, message, number=0):
        """Return the digest of a message."""
        return self.entries(FROM_LINE % number + message)[0].digest

    def test_volatile_fields(self):
        """Fields that mail programs write do not change it, nor do line ends at the end."""
        digest = self.digest(b"Subject: x\nTo: y\n\nbody\n")
        for field in (
            *(b"Status: RO\n", b"X-Status: A\n", b"X-Keywords: a\n  b\n", b"X-UID: 5\n"),
            *(b"X-IMAPbase: 1 2\n", b"X-IMAP: 1 2\n", b"X-UIDL: abc\n", b"Lines: 1\n"),
            b"Content-Length: 5\n",
        ):
            for message in (
                b"Subject: x\nTo: y\n%b\nbody\n" % field,
                b"%bSubject: x\nTo: y\n\nbody\n\n\n" % field,
                b"Subject: x\n%bTo: y\n\nbody" % field.upper(),
            ):
                self.assertEqual(self.digest(message), digest, message)

    def test_other_changes(self):
        """Any other change gives another one, and so does another From_ line."""
        digests = {
            self.digest(message)
            for message in (
                b"Subject: x\n\nbody\n",
                b"Subject: y\n\nbody\n",
                b"Subject: x\n\nbodY\n",
                b"Subject: x\n\nbody\nStatus: RO\n",
                b"Subject: x\nStatus2: RO\n\nbody\n",
            )
        }
        digests.add(self.digest(b"Subject: x\n\nbody\n", 1))
        self.assertEqual(len(digests), 6)

    def test_versions(self):
        """It is the same in every version of popserv, because unique-ids are made of it."""
        from_line = b"From ann %b remote from X" % DATE
        message = b"Subject: x\n" + b"\nbody X" * 9
        expected = blake2b(from_line + b"\n" + message, digest_size=16).digest()
        for block in (window.BLOCK, 30):
            self.patch(parser, "BLOCK", block)
            for octets in (
                from_line + b"\n" + message,
                from_line + b"\r\nStatus: RO\n" + message + b"\n\r\n\n",
            ):
                self.assertEqual(self.entries(octets)[0].digest, expected)

    @given(st.lists(st.sampled_from([b"x", b"\n", b"\n\n\n", b"\r\n", b"\r"]), max_size=60))
    def test_blocks(self, parts):
        """It does not depend on how much of the file is read at a time."""
        message = b"A: b\n\n" + b"".join(parts)
        digest = self.digest(message)
        with mock.patch.object(parser, "BLOCK", 7):
            self.assertEqual(self.digest(message), digest)

    def test_large(self):
        """A message in several blocks has the same digest as in one."""
        message = b"Subject: x\nStatus: O\n\n" + b"line\n" * 500 + b"\n" * 2500
        digest = self.digest(message)
        self.patch(window, "BLOCK", 1200)
        self.patch(parser, "BLOCK", 1200)
        self.assertEqual(self.digest(message), digest)

    def test_long_header(self):
        """Of a header that is too long the start is examined, and the rest is text."""
        for lines, is_too_long in ((20_000, False), (250_000, True)):
            for field in (b"Status: RO\n", b"Status: RO\r\n"):
                message = b"X: y\n" * lines + b"\nbody\n"
                entry = self.entries(FROM_LINE % 0 + field + message)[0]
                self.assertTrue(entry.is_read)
                self.assertTrue(entry.sizes.has_blank_line)
                self.assertEqual(entry.digest, self.digest(message))
            late = self.entries(FROM_LINE % 0 + b"X: y\n" * lines + b"Status: RO\n\nbody\n")[0]
            self.assertEqual(late.is_read, not is_too_long)


class MemoryTests(Opened):
    """The memory that reading a file takes."""

    def peak(self, message, mbox_format):
        """Return the octets at the peak while a message is read."""
        window = self.open(FROM_LINE % 0 + message)
        return peak_of(lambda: len(list(parse(window, 0, mbox_format))))

    def test_body(self):
        """It is below 4 MiB, whatever a body consists of, and however large it is."""
        for line, number in ((b"\n", 8 * MIB), (b"x", 8 * MIB), (b">From x\n", MIB // 4)):
            message = b"A: b\n\n" + line * number + b"x\n"
            for mbox_format in (MBOXO, MBOXRD):
                self.assertLess(self.peak(message, mbox_format), 4 * MIB, (line, mbox_format))

    def test_header(self):
        """It is below 24 MiB, whatever a header consists of, and however large it is."""
        message = b"Status:\nA:\n" * (2 * MIB // 11) + b"\nx\n"
        self.assertLess(self.peak(message, MBOXO), 24 * MIB)

    def test_messages(self):
        """An index takes less than 280 octets a message."""
        messages = 2000
        fd = self.open(mbox_of([b"Subject: %d\n\nx\n" % n for n in range(messages)]))._fd
        growth = growth_of(lambda: read_index(fd, DEFAULT_FORMAT, None))
        self.assertLess(growth / messages, 280)
