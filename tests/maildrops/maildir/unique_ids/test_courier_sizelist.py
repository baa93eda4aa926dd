"""courier_sizelist: the unique-ids that Courier has stored."""

import contextlib
import os

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.maildir.unique_ids.courier_sizelist import NAME, decode, load
from tests.maildrops.maildir.harness import DIRECTORY

VERSIONS = {
    # The last is of Courier's own tests, imap/pop3testsuite.txt.
    b"1.a:2,S 67\n2.b 68\n": {b"1.a": b"1.a", b"2.b": b"2.b"},
    b"/1 9\n1.a:2,S 67 1\n2.b 68 0\n": {b"1.a": b"UID1", b"2.b": b"2.b"},
    b"/2 4 200\n1.a:2,S 67 2:200\n2.b 68 3:0\n3.c 1 0:0\n": {
        b"1.a": b"UID2-200",
        b"2.b": b"UID3",
        b"3.c": b"3.c",
    },
    b"/3 4 200\nmsg2:2,S 69 2:200:0\n": {b"msg2": b"UID2-200"},
}


class DecodeTests(SynchronousTestCase):
    """The file is read in each version, and rejected as a whole if it is damaged."""

    def test_versions(self):
        """Each version gives the unique-ids that Courier sends."""
        for data, unique_ids in VERSIONS.items():
            self.assertEqual(decode(data), unique_ids)

    def test_escaped_names(self):
        """Octets of a file name that Courier escapes are escaped."""
        data = b"/2 4 200\n1.a+b'c\"d \xe9 67 0:0\n"
        self.assertEqual(decode(data), {b"1.a+b'c\"d \xe9": b"1.a+2Bb+27c+22d+20+E9"})

    def test_without_messages(self):
        """A file without messages has no unique-ids."""
        self.assertEqual(decode(b"/3 1 200\n"), {})

    def test_damaged(self):
        """A damaged file is rejected with the number of the line."""
        for data, message in {
            b"": "line 1: it has no end",
            b"/4 1 2\n": "line 1: its version",
            b"/x\n": "line 1: its version",
            b"/4 1 2\n1.a 67 2:200\n": "line 1: its version",
            b"/2 4 200\n1.a 67 2:200": "line 2: it has no end",
            b"/2 4 200\n1.a 67 2\n": "line 2: it is not",
            b"/2 4 200\n1.a 67 2:200\n\n": "line 3: it is not",
            b"/2 4 200\n:2,S 67 2:200\n": "line 2: it is not",
            b"/2 4 200\na/b 67 2:200\n": "line 2: it is not",
            b"\0\0\0\n": "line 1: it is not",
        }.items():
            with self.subTest(data=data):
                self.assertIn(message, str(self.assertRaises(ValueError, decode, data)))

    @given(st.binary())
    def test_any_octets(self, data):
        """Any octets are read or rejected."""
        with contextlib.suppress(ValueError):
            decode(data)

    def test_load(self):
        """The file in a Maildir is read; a damaged one is refused by name."""
        path = self.mktemp()
        os.mkdir(path)
        fd = os.open(path, DIRECTORY)
        self.addCleanup(os.close, fd)
        self.assertEqual(load(fd), (None, None))
        for data, unique_ids in VERSIONS.items():
            with open(os.path.join(path, "courierpop3dsizelist"), "wb") as file:
                file.write(data)
            self.assertEqual(load(fd)[0], unique_ids)
        with open(os.path.join(os.fsencode(path), NAME), "ab") as file:
            file.write(b"x")
        error = self.assertRaises(OSError, load, fd)
        self.assertEqual(error.filename, NAME)
        self.assertIn("let Courier write the file again", str(error))
