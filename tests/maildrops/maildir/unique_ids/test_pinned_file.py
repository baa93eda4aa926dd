"""pinned_file: the unique-ids that messages keep, and damage of the file."""

import os
import stat
from hashlib import blake2b
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.maildir.small_files import version
from popserv.maildrops.maildir.unique_ids import pinned_file
from popserv.maildrops.maildir.unique_ids.pinned_file import (
    NAME,
    Pins,
    decode,
    encode,
    is_base_name,
    load,
    quote,
    save,
    unquote,
)
from tests.maildrops.maildir.harness import DIRECTORY, failing, watch_descriptors

PINS = Pins({b"1.a": b"000000016b0baffe", b"2 b%\xe9\n": b"UID2-200"}, 20000)

base_names = st.binary(min_size=1, max_size=20).filter(is_base_name)
unique_ids = st.binary(min_size=1, max_size=20).map(lambda text: text.hex().encode("ascii"))
pins = st.builds(
    lambda pairs, day: Pins(dict(pairs), day),
    st.lists(
        st.tuples(base_names, unique_ids),
        unique_by=(lambda pair: pair[0], lambda pair: pair[1]),
    ),
    st.integers(0, 10**6),
)


class EncodingTests(SynchronousTestCase):
    """What is written is read again, and nothing else is."""

    @given(pins)
    def test_round_trip(self, each):
        """A file has the pins that were written."""
        self.assertEqual(decode(encode(each)), each)

    def test_format(self):
        """The octets of a file are those that former versions of popserv read and write."""
        text = b"popserv-uidl 1 2 20000\nold 1.a\nUID2-200 2%20b%25%E9%0A\n"
        digest = blake2b(text, digest_size=32).hexdigest().encode("ascii")
        each = Pins({b"2 b%\xe9\n": b"UID2-200", b"1.a": b"old"}, 20000)
        self.assertEqual(encode(each), text + digest + b"\n")

    @given(st.binary())
    def test_names(self, name):
        """A quoted name is a word of printable ASCII, and stands for that name alone."""
        self.assertRegex(quote(name), rb"\A[!-~]*\Z")
        self.assertEqual(unquote(quote(name)), name)

    @given(pins, st.integers(0), st.integers(1, 255))
    def test_changed(self, each, at, change):
        """A file with any octet changed is rejected."""
        data = bytearray(encode(each))
        data[at % len(data)] ^= change
        self.assertRaises(ValueError, decode, bytes(data))

    def test_torn(self):
        """A file that was cut anywhere is rejected."""
        data = encode(PINS)
        for length in range(len(data)):
            self.assertRaises(ValueError, decode, data[:length])
        self.assertRaises(ValueError, decode, data + b"\n")

    def test_forged(self):
        """A file with a valid digest is rejected if no server writes such pins."""
        for lines in (
            [b"popserv-uidl 1 1 0", b"a 1.a", b"b 2.b"],
            [b"popserv-uidl 1 2 0", b"a 1.a", b"a 2.b"],
            [b"popserv-uidl 1 2 0", b"a 1.a", b"b 1.a"],
            [b"popserv-uidl 1 1 0", b" 1.a"],
            [b"popserv-uidl 1 1 0", b"a"],
            [b"popserv-uidl 1 1 0", b"a x/y"],
            [b"popserv-uidl 1 1 0", b"a x%2fy"],
            [b"popserv-uidl 1 1 0", b"a .x"],
            [b"popserv-uidl 1 1 0", b"a\xe9 x"],
            [b"popserv-uidl 2 1 0", b"a 1.a"],
            [],
        ):
            text = b"".join(b"%b\n" % line for line in lines)
            data = text + pinned_file._digest(text) + b"\n"
            self.assertRaises(ValueError, decode, data)


class RemovedTests(SynchronousTestCase):
    """Pins of removed messages are dropped, but not while the messages may come back."""

    def test_few(self):
        """While fewer than half are missing, nothing changes."""
        each = Pins({b"1": b"a", b"2": b"b", b"3": b"c"})
        self.assertEqual(each.without_removed({b"1", b"2", b"9"}, 7), each)
        self.assertEqual(Pins().without_removed({b"1"}, 7), Pins())

    def test_dropped(self):
        """Half must be missing for thirty days before any pin is dropped."""
        each = Pins({b"1": b"a", b"2": b"b"})
        noticed = each.without_removed({b"1"}, 7)
        self.assertEqual(noticed, each._replace(missing_since=7))
        self.assertEqual(noticed.without_removed({b"1"}, 7 + 29), noticed)
        self.assertEqual(noticed.without_removed({b"1"}, 7 + 30), Pins({b"1": b"a"}))
        self.assertEqual(noticed.without_removed(set(), 7 + 30), Pins())

    def test_base_names(self):
        """A pin that may be the base name of another message is never dropped."""
        each = Pins({b"1.a": b"2.b", b"3.c": b"3.c"}, 1)
        kept = each.without_removed(set(), 1 + 30)
        self.assertEqual(kept, Pins({b"1.a": b"2.b"}))
        self.assertEqual(kept.without_removed(set(), 1000), kept)

    def test_back(self):
        """If the messages are there again, the days are counted anew."""
        each = Pins({b"1": b"a", b"2": b"b"}, 7)
        self.assertEqual(each.without_removed({b"1", b"2"}, 7 + 30), each._replace(missing_since=0))


class FileTests(SynchronousTestCase):
    """The file is replaced as a whole."""

    def setUp(self):
        """Make a Maildir."""
        self.path = os.fsencode(os.path.abspath(self.mktemp()))
        os.mkdir(self.path, 0o750)
        self.fd = os.open(self.path, DIRECTORY)
        self.addCleanup(os.close, self.fd)
        watch_descriptors(self)

    def names(self):
        """Return the names in the Maildir."""
        return os.listdir(self.path)

    def test_saved(self):
        """A file that was saved is loaded, and has the permissions of the Maildir."""
        self.assertEqual(load(self.fd), (Pins(), None))
        written = save(self.fd, PINS)
        self.assertEqual(load(self.fd), (PINS, written))
        self.assertEqual(self.names(), [b"popserv-uidl"])
        mode = os.stat(os.path.join(self.path, NAME)).st_mode
        self.assertEqual(stat.S_IMODE(mode), 0o640)

    def test_without_pins(self):
        """Without pins there is no file."""
        for _ in range(2):
            with mock.patch.object(os, "fsync", wraps=os.fsync) as fsync:
                self.assertIsNone(save(self.fd, Pins()))
            fsync.assert_called_once_with(self.fd)
            self.assertEqual(self.names(), [])
            save(self.fd, PINS)

    def test_left_over(self):
        """The unfinished file of a server that was killed is replaced."""
        with open(os.path.join(self.path, b"popserv-uidl.new"), "wb") as file:
            file.write(b"x")
        save(self.fd, PINS)
        self.assertEqual(self.names(), [NAME])

    def test_failures(self):
        """After any failure the old file is there as it was, and no other."""
        save(self.fd, PINS)
        before = version(NAME, self.fd)
        for name in ("write", "fchmod", "rename"):
            with self.subTest(name=name), failing(os, name, OSError(28, "no room")):
                self.assertRaises(OSError, save, self.fd, Pins({b"9": b"x"}))
            self.assertEqual(self.names(), [NAME])
            self.assertEqual(version(NAME, self.fd), before)
        with failing(os, "fsync", OSError(5, "I/O error")):
            self.assertRaises(OSError, save, self.fd, Pins({b"9": b"x"}))
        self.assertEqual(load(self.fd)[0], PINS)
        octets = len(encode(PINS))
        self.patch(pinned_file, "MAX_OCTETS", octets - 1)
        self.assertRaises(OSError, save, self.fd, PINS)
        self.patch(pinned_file, "MAX_OCTETS", octets)
        save(self.fd, PINS)

    def test_synced(self):
        """The contents are on disk before the file has its name, and then the directory is."""
        calls = []
        for name in ("fsync", "rename"):
            real = getattr(os, name)

            def call(*args, name=name, real=real, **options):
                calls.append(name)
                return real(*args, **options)

            self.patch(os, name, call)
        save(self.fd, PINS)
        self.assertEqual(calls, ["fsync", "rename", "fsync"])

    def test_damaged(self):
        """A damaged file is refused by name, with the remedy."""
        with open(os.path.join(self.path, NAME), "wb") as file:
            file.write(encode(PINS)[:-2])
        error = self.assertRaises(OSError, load, self.fd)
        self.assertEqual(error.filename, NAME)
        self.assertIn("restore it from a backup", str(error))
