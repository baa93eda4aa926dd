"""popserv.maildrops.mbox.stored_form: what is delivered is what the file is parsed to again."""

import io
import os
import re
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.errors import DeliveryRefused
from popserv.maildrops.mbox import header, parser
from popserv.maildrops.mbox import stored_form as module
from popserv.maildrops.mbox.header import MAX_HEADER
from popserv.maildrops.mbox.kind import FORMATS
from popserv.maildrops.mbox.parser import parse
from popserv.maildrops.mbox.quoting import Unquoter
from popserv.maildrops.mbox.stored_form import stored_form
from popserv.maildrops.mbox.window import Window
from popserv.messages.details import NO_DETAILS, Flags, MessageDetails
from popserv.testing import naive_octets
from tests.maildrops.maildir.test_details import FLAGS

PARTS = st.sampled_from(
    [
        *(b"Subject: x", b"Status: RO", b"X-Status: AD", b"X-UIDL: own", b"X-UIDL: id0"),
        *(b"Content-Length: 0", b"Content-Length: 7", b"content-length: nonsense", b" folded"),
        *(b"From ann Mon Jan  5 10:00:00 2026", b"From me", b">From you", b">>From them"),
        *(b"Return-Path: <ann@example.org>", b"Return-Path: <>", b".", b"\xff\r", b"\n", b"\r\n"),
        *(b"\n\n", b"\r\n\r\n", b"\n", b"\n"),
    ]
)
MESSAGES = st.lists(PARTS, max_size=12).map(b"".join)
FIELDS = re.compile(
    rb"^(?:status|x-status|x-uidl|content-length):.*\n(?:[ \t].*\n?)*",
    re.IGNORECASE | re.MULTILINE,
)


def lines(text, *, unquoted):
    """Return the lines of a message without the fields that are changed, and perhaps quoting."""
    text = text.replace(b"\r\n", b"\n")
    if text and not text.endswith(b"\n"):
        text += b"\n"
    if unquoted:
        text = re.sub(rb"(?m)^>+From ", b"From ", text)
    return FIELDS.sub(b"", text).split(b"\n")


class StoredFormTests(SynchronousTestCase):
    """Messages in files of each format."""

    def test_last_field(self):
        """If the last line is a Content-Length without an end, no blank line takes its place."""
        entries, texts = self.parsed("mbox", [(b"a: b\nContent-Length: 1\r", NO_DETAILS)])
        self.assertEqual(texts, [b"a: b\nX-UIDL: id0\n"])
        self.assertFalse(entries[0].sizes.has_blank_line)

    def test_not_believed(self):
        """A Content-Length that is not believed stays as it is, with a body or without."""
        for message in (
            b"Content-Length: 1\nX-UIDL: id0\n",
            b"Content-Length: 1\nX-UIDL: id0\n\nx\n",
        ):
            for kind in ("mboxrd", "mboxo"):
                self.assertEqual(self.parsed(kind, [(message, NO_DETAILS)])[1], [message])

    def test_pieces(self):
        """A line of the body that looks like a From_ line is protected wherever a read ends."""
        for octets in range(6):
            message = b"X-UIDL: id0\n\n" + b"x" * octets + b"\nFrom ann Mon Jan  5 10:00:00 2026\n"
            self.patch(module, "_CHUNK", 6)
            _, [text] = self.parsed("mbox", [(message, NO_DETAILS)])
            self.assertEqual(text.partition(b"\n\n")[2], message.partition(b"\n\n")[2])

    def test_long_headers(self):
        """A message whose header is about as long as can be is found again whole, or refused."""
        for each in (module, header, parser):
            self.patch(each, "MAX_HEADER", 200)
        self.patch(parser, "USUAL_HEADER", 100)
        body = b"\nFrom ann Mon Jan  5 10:00:00 2026\n\nx\n"
        for kind, line_end, octets in product(FORMATS, (b"\n", b"\r\n"), range(100, 190)):
            fields = (b"X-UIDL: id0", b"From x", b"From y", b"X: " + b"x" * octets)
            message = line_end.join((*fields, b"", body))
            try:
                [entry], [text] = self.parsed(kind, [(message, NO_DETAILS)])
            except DeliveryRefused:
                self.assertGreater(octets, 110)
            else:
                self.assertLess(octets, 180)
                self.assertEqual(entry.x_uidl, b"id0")
                expected = body.replace(b"From", b">From") if kind == "mboxo" else body
                self.assertTrue(text.endswith(line_end + expected))

    def test_internal_data(self):
        """No sender can make a message look like the data of Dovecot and c-client, unseen."""
        text = (
            b"Return-Path: <>\nReturn-Path: <mailer-Daemon>\n"
            b"Subject: DON'T DELETE THIS MESSAGE -- FOLDER INTERNAL DATA\nX-IMAP: 1 2\n\nx\n"
        )
        for message in (text, text.replace(b"mailer-Daemon", b"MAILER-DAEMON")):
            for kind in FORMATS:
                entries, _ = self.parsed(kind, [(message, NO_DETAILS)])
                self.assertEqual(len(entries), 1, kind)

    def parsed(self, kind, messages):
        """Return the entries of a file of messages, and the octets of each."""
        path = self.mktemp()
        with open(path, "wb") as file:
            for number, (message, details) in enumerate(messages):
                body = io.BytesIO(message)
                for chunk in stored_form(body, FORMATS[kind], b"id%d" % number, details):
                    file.write(chunk)
        with open(path, "rb") as file:
            window = Window(file.fileno(), os.path.getsize(path))
            entries = list(parse(window, 0, FORMATS[kind]))
            texts = [window.read(each.start, each.end - each.start) for each in entries]
        if FORMATS[kind].is_quoted:
            unquoters = [(Unquoter(), text) for text in texts]
            texts = [each.feed(text) + each.finish() for each, text in unquoters]
        return entries, texts

    @given(
        st.sampled_from([*FORMATS]),
        st.lists(st.tuples(MESSAGES, FLAGS.map(Flags)), min_size=1, max_size=4),
    )
    @settings(max_examples=400)
    def test_any(self, kind, given_messages):
        """Any messages are found again: as many, with unique-ids, flags, sizes and their lines."""
        messages = [(text, MessageDetails(1_700_000_000, flags)) for text, flags in given_messages]
        entries, texts = self.parsed(kind, messages)
        expected = [b"id%d" % at for at in range(len(messages))]
        self.assertEqual([each.x_uidl for each in entries], expected)
        self.assertEqual([each.sizes.octets for each in entries], [*map(naive_octets, texts)])
        unquoted = kind != "mboxrd"
        for entry, text, (message, details) in zip(entries, texts, messages, strict=True):
            self.assertEqual(entry.is_read, Flags.SEEN in details.flags)
            expected = lines(message, unquoted=unquoted)
            self.assertEqual(lines(text, unquoted=unquoted), expected)

    def test_exact(self):
        """With Content-Length, or quoted and unquoted, lines of the body stay as they are."""
        body = b"From ann Mon Jan  5 10:00:00 2026\n\nFrom me\n>From you\n\n"
        message = b"Subject: x\n\n" + body
        for chunk in (7, 1 << 20):
            self.patch(module, "_CHUNK", chunk)
            for kind in ("mbox", "mboxrd"):
                _, texts = self.parsed(kind, [(message, NO_DETAILS)] * 2)
                for text in texts:
                    self.assertEqual(text.partition(b"\n\n")[2], body)
            _, [text] = self.parsed("mboxo", [(message, NO_DETAILS)])
            expected = re.sub(rb"(?m)^From ", b">From ", body)
            self.assertEqual(text.partition(b"\n\n")[2], expected)

    def test_unchanged(self):
        """A message that has its unique-id and its flags already is stored as it is."""
        message = b"Status: RO\nX-Status: F\nX-UIDL: id0\nSubject: x\n\nbody\n"
        details = MessageDetails(5, Flags.SEEN | Flags.FLAGGED)
        for kind in FORMATS:
            self.assertEqual(self.parsed(kind, [(message, details)])[1], [message])

    def test_from_line(self):
        """The From_ line has the sender in Return-Path, and the time of delivery or that of now."""
        for field, sender in (
            (b"Return-Path: <a@b>\n", b"a@b"),
            (b"", b"MAILER-DAEMON@localhost"),
        ):
            for delivered, year in ((86_400, b" 1970\n"), (0, b" 20")):
                details = MessageDetails(delivered)
                body = io.BytesIO(field + b"\n")
                from_line = next(stored_form(body, FORMATS["mbox"], b"x", details))
                self.assertTrue(from_line.startswith(b"From %b " % sender), from_line)
                self.assertIn(year, from_line)

    def test_refused(self):
        """A unique-id that X-UIDL cannot have, or a header in which it is not seen, is refused."""
        long = b"X: " + b"x" * (MAX_HEADER - 10)
        for uid, message in (
            (b"x" * 71, b"\n"),
            (b"a b", b"\n"),
            (b"x", long + b"\n\n"),
            (b"x", long * 2),
            (b"x", b"x" * MAX_HEADER),
            (b"x", b"no blank line\n" * (MAX_HEADER // 10)),
        ):
            form = stored_form(io.BytesIO(message), FORMATS["mbox"], uid, NO_DETAILS)
            self.assertRaises(DeliveryRefused, list, form)
