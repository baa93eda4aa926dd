"""pinning: unique-ids of another server become pins, unless there is a doubt."""

import errno
import os

from popserv.maildrops.maildir.unique_ids import courier_sizelist, dovecot_uidlist, pinned_file
from popserv.maildrops.maildir.unique_ids.format import UniqueIdFormat
from popserv.maildrops.maildir.unique_ids.pinning import listed_unique_ids, pin
from tests.maildrops.maildir.harness import DIRECTORY, SPECIAL_FILES, MaildirCase, failing

NAMES = [b"1.a", b"2.b", b"3.c"]


class PinningTests(MaildirCase):
    """What is pinned, and what is refused."""

    def setUp(self):
        """Open the Maildir."""
        super().setUp()
        self.fd = os.open(self.path_of(b""), DIRECTORY)
        self.addCleanup(os.close, self.fd)

    def pins(self):
        """Return what is pinned."""
        return pinned_file.load(self.fd)[0].unique_ids

    def times(self):
        """Return the times of the folders."""
        return [os.stat(self.path_of(name)).st_mtime_ns for name in (b"new", b"cur")]

    def test_pinned(self):
        """Unique-ids of messages that exist are pinned, and folders get other times."""
        for name in (b"new", b"cur"):
            os.utime(self.path_of(name), ns=(0, 0))
        self.assertEqual(pin(self.fd, {b"1.a": b"x", b"9.z": b"y"}, NAMES), (1, {}))
        self.assertEqual(self.pins(), {b"1.a": b"x"})
        self.assertNotIn(0, self.times())

    def test_repeated(self):
        """To pin again changes nothing, and adds what is new."""
        pin(self.fd, {b"1.a": b"x"}, NAMES)
        before = os.stat(self.path_of(pinned_file.NAME))
        self.assertEqual(pin(self.fd, {b"1.a": b"x"}, NAMES), (1, {}))
        self.assertEqual(os.stat(self.path_of(pinned_file.NAME)).st_ino, before.st_ino)
        self.assertEqual(pin(self.fd, {b"1.a": b"x", b"2.b": b"y"}, NAMES), (2, {}))
        self.assertEqual(self.pins(), {b"1.a": b"x", b"2.b": b"y"})

    def test_not_found(self):
        """If the file is said not to exist, although it does, no pin is lost."""
        pin(self.fd, {b"1.a": b"x"}, NAMES)
        missing = FileNotFoundError(errno.ENOENT, "No such file or directory")
        with failing(os, "open", missing, lambda name, *_: name == pinned_file.NAME):
            self.assertRaises(OSError, pin, self.fd, {b"2.b": b"y"}, NAMES)
        self.assertEqual(self.pins(), {b"1.a": b"x"})

    def test_refused(self):
        """What is invalid, not unique, or contradicts a pin is refused, and the rest is pinned."""
        pin(self.fd, {b"1.a": b"x"}, NAMES)
        for wanted, reason in (
            ({b"1.a": b"other"}, "it has another pinned unique-id"),
            ({b"2.b": b"x"}, "its unique-id is pinned to another message"),
            ({b"2.b": b"a b"}, "its unique-id is invalid"),
            ({b"2.b": b""}, "its unique-id is invalid"),
            ({b"2.b": b"y", b"9.z": b"y"}, "another message has the same unique-id"),
        ):
            (name, _), *_ = wanted.items()
            with self.subTest(wanted=wanted):
                self.assertEqual(pin(self.fd, wanted, NAMES), (0, {name: reason}))
                self.assertEqual(self.pins(), {b"1.a": b"x"})
        done = pin(self.fd, {b"1.a": b"other", b"2.b": b"y"}, NAMES)
        self.assertEqual((done.messages, list(done.refused)), (1, [b"1.a"]))

    def test_without_folders(self):
        """A Maildir without folders has no times to change."""
        for name in (b"new", b"cur"):
            os.rmdir(self.path_of(name))
        self.assertEqual(pin(self.fd, {b"1.a": b"x"}, NAMES), (1, {}))

    def test_special_files(self):
        """What is in the place of a folder and is none is not touched, but refused."""
        os.rmdir(self.path_of(b"cur"))
        for what, make in SPECIAL_FILES.items():
            if what == "a directory":
                continue
            make(self.path_of(b"cur"))
            with self.subTest(what=what):
                error = self.assertRaises(OSError, pin, self.fd, {b"1.a": b"x"}, NAMES)
                self.assertEqual(error.filename, b"cur")
            os.unlink(self.path_of(b"cur"))
            os.unlink(self.path_of(pinned_file.NAME))

    def test_times_not_changed(self):
        """A folder whose times cannot be changed is named by the error."""
        with failing(os, "utime", OSError(errno.EIO, "I/O error")):
            error = self.assertRaises(OSError, pin, self.fd, {b"1.a": b"x"}, NAMES)
        self.assertEqual(error.filename, b"new")

    def test_lists(self):
        """The lists of Dovecot and Courier give unique-ids; a missing one is an error."""
        for text, name, data, unique_ids in (
            ("%v.%u", dovecot_uidlist.NAME, b"3 V9 N5\n1 :1.a\n2 P\xe9 :2.b\n", [b"9.1", b""]),
            (
                "courier",
                courier_sizelist.NAME,
                b"/2 1 9\n1.a 1 2:9\n2.b 1 0:0\n",
                [b"UID2-9", b"2.b"],
            ),
        ):
            fmt = UniqueIdFormat(text)
            error = self.assertRaises(FileNotFoundError, listed_unique_ids, self.fd, fmt)
            self.assertEqual(error.filename, name)
            with open(self.path_of(name), "wb") as file:
                file.write(data)
            listed = listed_unique_ids(self.fd, fmt)
            self.assertEqual(listed, dict(zip(NAMES, unique_ids, strict=False)))
