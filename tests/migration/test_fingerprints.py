"""fingerprints: what distinguishes messages, and what servers may change."""

import time

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.migration.fingerprints import (
    contents_fingerprint,
    header_fields,
    header_fingerprint,
    is_identifying,
)

MESSAGE = [
    b"Received: from a",
    b"\tby b",
    b"Message-ID: <1@a>",
    b"Subject: x",
    b"",
    b"body",
    b"",
    b"end",
]


class FingerprintTests(SynchronousTestCase):
    """The same message has the same fingerprints, and another one has others."""

    def assert_same(self, lines, same=True):
        """Check whether lines are the message, by header and by contents."""
        for fingerprint in (
            lambda each: header_fingerprint(header_fields(each)),
            contents_fingerprint,
        ):
            compare = self.assertEqual if same else self.assertNotEqual
            compare(fingerprint(lines), fingerprint(MESSAGE))

    def test_volatile(self):
        """Fields that servers add or remove do not count."""
        for field in (
            b"Status: RO",
            b"X-Status: A",
            b"X-UIDL: abc",
            b"X-UID: 7",
            b"Content-Length: 5",
            b"X-Mozilla-Status: 0001",
            b"Return-Path: <a@b>",
            b"Delivered-To: ann",
            b"From ann Sat Nov 28 2026",
            b">From ann Sat Nov 28 2026",
        ):
            self.assert_same([field, *MESSAGE])

    def test_lines(self):
        """Line ends, folding, and empty lines at the end do not count."""
        self.assert_same([line + b"\r\n" for line in MESSAGE])
        self.assert_same([line + b"\n" for line in MESSAGE])
        self.assert_same([b"Received: from a by b", *MESSAGE[2:]])
        self.assert_same([*MESSAGE, b"", b""])

    def test_long_field(self):
        """A field of many lines is read in a time that grows with their number only."""

        def seconds(count):
            lines = [b"A: b", *[b" " + b"x" * 100] * count]
            before = time.process_time()
            [field] = header_fields(lines)
            self.assertEqual(len(field), 4 + 101 * count)
            return time.process_time() - before

        # 40 times as many would take 1,600 times as long.
        self.assertLess(seconds(20_000), 0.5 + 400 * min(seconds(500) for _ in range(5)))

    def test_other(self):
        """Any other difference counts."""
        self.assert_same([*MESSAGE[:2], b"Message-ID: <2@a>", *MESSAGE[3:]], same=False)
        self.assert_same([b"X-New: field", *MESSAGE], same=False)
        self.assert_same([MESSAGE[2], *MESSAGE[:2], *MESSAGE[3:]], same=False)
        other = contents_fingerprint([*MESSAGE[:5], b"Body", *MESSAGE[6:]])
        self.assertNotEqual(other, contents_fingerprint(MESSAGE))
        self.assertNotEqual(contents_fingerprint(MESSAGE[:4]), contents_fingerprint(MESSAGE))

    def test_identifying(self):
        """A header with Message-ID or Received is that of one message."""
        self.assertTrue(is_identifying([b"Subject: x", b"message-id: <1@a>"]))
        self.assertTrue(is_identifying([b"RECEIVED: from a"]))
        self.assertFalse(is_identifying([b"Subject: Received: x"]))
        self.assertFalse(is_identifying([]))

    @given(st.lists(st.binary()))
    def test_any_lines(self, lines):
        """Any lines have fingerprints."""
        self.assertEqual(len(contents_fingerprint(lines)), 20)
        self.assertEqual(len(header_fingerprint(header_fields(lines))), 20)
