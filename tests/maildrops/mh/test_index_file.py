"""Tests of popserv.maildrops.mh.index_file."""

import errno
import os
from hashlib import blake2b
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from popserv.maildrops.mh import index_file
from popserv.maildrops.mh.folder import FileKey
from popserv.maildrops.mh.index_file import Entry, decode, encode
from popserv.messages.downgrade import Downgrader
from popserv.messages.sizes import Sizes
from tests.maildrops.maildir.harness import failing
from tests.maildrops.mh.harness import MHCase

NUMBERS = st.integers(0, 10**12)
ENTRIES = st.lists(
    st.builds(
        Entry,
        st.just(0),
        st.builds(FileKey, NUMBERS, NUMBERS, st.integers(-(10**18), 10**19)),
        st.builds(Sizes, NUMBERS, st.none() | NUMBERS, st.booleans()),
        st.binary(min_size=16, max_size=16).map(lambda each: each.hex().encode()),
        st.from_regex(rb"[!-~]{1,70}", fullmatch=True),
    ),
    unique_by=lambda entry: entry.uid,
)
ENTRY = Entry(0, FileKey(1, 2, 3), Sizes(3, None), b"a" * 32, b"uid")


class IndexFileTests(MHCase):
    """The file, and what is done with one that is not right."""

    @given(ENTRIES, st.sampled_from([b"0", b"1"]))
    def test_round_trip(self, entries, kind):
        """A file has the entries that were written."""
        text = encode(entries, kind)
        self.assertEqual(decode(text, kind), (entries, True))
        self.assertEqual(decode(text, b"0" if kind == b"1" else b"1"), (entries, False))

    def test_form(self):
        """A file of one version can be read by each, also the kinds of its sizes."""
        for downgrader, kind in ((None, b"0"), (Downgrader, b"1")):
            self.assertEqual(index_file.kind_of_sizes(downgrader), kind)
        self.assertEqual(index_file.NOT_COUNTED, b"-")
        text = b"popserv MH index 1 -\n1 2 3 3 - 1 " + b"a" * 32 + b" uid\n"
        digest = blake2b(text, digest_size=16).hexdigest().encode()
        self.assertEqual(encode([ENTRY], index_file.NOT_COUNTED), text + digest)

    def test_is_damaged(self):
        """A file of any kind is whole, even without entries; a link in its place is not."""
        with self.folder() as folder:
            self.assertFalse(index_file.is_damaged(folder))
            for kind in (b"0", b"1", b"-"):
                index_file.save(folder, [], kind)
                self.assertFalse(index_file.is_damaged(folder))
            os.unlink(self.file(".popserv-index"))
            os.symlink("nowhere", self.file(".popserv-index"))
            self.assertTrue(index_file.is_damaged(folder))

    def test_synced(self):
        """All of the file is on disk before it replaces the old one, and the renaming is synced."""
        steps = []

        def fsync(fd):
            names = sorted(os.listdir(self.path))
            steps.append((os.fstat(fd).st_size if len(steps) == 0 else None, names))

        with self.folder() as folder, patch.object(index_file.os, "fsync", fsync):
            index_file.save(folder, [ENTRY], b"0")
        size = len(encode([ENTRY], b"0"))
        self.assertEqual(steps, [(size, [".popserv-index.tmp"]), (None, [".popserv-index"])])

    def test_link_in_place(self):
        """Nothing is written to a file that another user puts in the place of the new one."""
        real = os.unlink

        def unlink(name, **kwargs):
            os.symlink("other", self.file(name.decode()))

        with (
            open(self.file("other"), "wb"),
            self.folder() as folder,
            patch.object(index_file.os, "unlink", unlink),
            self.assertRaises(FileExistsError),
        ):
            index_file.save(folder, [ENTRY], b"0")
        real(self.file(".popserv-index.tmp"))
        self.assertEqual(os.path.getsize(self.file("other")), 0)

    def test_damaged(self):
        """A torn, damaged or foreign file is noticed, whatever octet is wrong."""
        text = encode([ENTRY], b"0")
        for at in range(len(text)):
            for damaged in (text[:at], text[:at] + b"~" + text[at + 1 :]):
                with self.assertRaises(ValueError):
                    decode(damaged, b"0")

    def test_forged(self):
        """A file with the right digest and contents that encode() does not make is not used."""
        line = encode([ENTRY], b"0")[:-32].splitlines()[1]
        for body in (b"other\n", b"popserv MH index 1 0\nx\n", b"popserv MH index 1 0\n%b\n%b\n"):
            body = body.replace(b"%b", line)
            with self.assertRaises(ValueError):
                decode(body + index_file._digest(body), b"0")

    def test_save(self):
        """A file is replaced whole, readable to its owner alone, who is that of the folder."""
        os.chown(self.path, 65534, 65534)
        with self.folder() as folder:
            with open(self.file(".popserv-index.tmp"), "wb"):
                pass
            index_file.save(folder, [ENTRY], b"0")
            self.assertEqual(index_file.load(folder, b"0"), ([ENTRY], True))
            status = os.stat(self.file(".popserv-index"))
            self.assertEqual((status.st_uid, status.st_mode & 0o777), (65534, 0o600))
            with patch.object(index_file.os, "fchown", side_effect=PermissionError):
                index_file.save(folder, [], b"0")
            self.assertEqual(index_file.load(folder, b"0"), ([], True))
        self.assertEqual(os.listdir(self.path), [".popserv-index"])

    def test_not_saved(self):
        """A file that cannot be written leaves the old one, and nothing else."""
        with self.folder() as folder:
            index_file.save(folder, [ENTRY], b"0")
            renaming = patch.object(index_file.os, "rename", side_effect=OSError)
            with renaming, self.assertRaises(OSError):
                index_file.save(folder, [], b"0")
            with patch.object(index_file, "_MAX_OCTETS", 10), self.assertRaises(OSError):
                index_file.save(folder, [ENTRY], b"0")
            self.assertEqual(index_file.load(folder, b"0"), ([ENTRY], True))
        self.assertEqual(os.listdir(self.path), [".popserv-index"])

    def test_longest(self):
        """A file of the greatest length can be written, and read again."""
        longest = patch.object(index_file, "_MAX_OCTETS", len(encode([ENTRY], b"0")))
        with self.folder() as folder, longest:
            index_file.save(folder, [ENTRY], b"0")
            self.assertEqual(index_file.load(folder, b"0"), ([ENTRY], True))

    def test_untrusted(self):
        """A link, a FIFO, a directory and a file that is too long are not read."""
        with self.folder() as folder:
            index_file.save(folder, [ENTRY], b"0")
            with patch.object(index_file, "_MAX_OCTETS", 10):
                self.assertEqual(index_file.load(folder, b"0"), ([], False))
            os.rename(self.file(".popserv-index"), self.file("other"))
            for make in (os.mkfifo, lambda path: os.symlink("other", path)):
                make(self.file(".popserv-index"))
                self.assertEqual(index_file.load(folder, b"0"), ([], False))
                os.unlink(self.file(".popserv-index"))
            os.mkdir(self.file(".popserv-index"))
            self.assertEqual(index_file.load(folder, b"0"), ([], False))

    def test_unreadable(self):
        """A file that cannot be read is none that is not there."""
        with self.folder() as folder:
            index_file.save(folder, [ENTRY], b"0")
            for name in ("open", "fstat"):
                failing = patch.object(index_file.os, name, side_effect=OSError(5, "I/O error"))
                with failing, self.assertRaises(OSError) as raised:
                    index_file.load(folder, b"0")
                self.assertEqual(raised.exception.filename, index_file.NAME)

    def test_not_found(self):
        """A file that is there, although the system says that it is not, is an error."""
        with self.folder() as folder:
            self.assertEqual(index_file.load(folder, b"0"), ([], False))
            index_file.save(folder, [ENTRY], b"0")
            missing = FileNotFoundError(2, "No such file or directory")
            with failing(os, "open", missing, lambda name, *_: name == index_file.NAME):
                error = self.assertRaises(OSError, index_file.load, folder, b"0")
                self.assertEqual(error.errno, errno.ESTALE)
            self.assertEqual(index_file.load(folder, b"0"), ([ENTRY], True))

    def test_not_counted(self):
        """Of a file whose sizes are discarded, the unique-ids are used."""
        with self.folder() as folder:
            index_file.save(folder, [ENTRY], index_file.NOT_COUNTED)
            self.assertEqual(index_file.load(folder, b"0"), ([ENTRY], False))
