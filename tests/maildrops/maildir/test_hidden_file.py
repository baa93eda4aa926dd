"""Tests of popserv.maildrops.maildir.hidden_file."""

import os
from hashlib import blake2b
from unittest import mock

from popserv.maildrops.maildir import hidden_file, small_files
from popserv.maildrops.maildir.hidden_file import NAME, digest_of, load, save
from tests.maildrops.maildir.harness import DIRECTORY, NOBODY, SPECIAL_FILES, MaildirCase, failing

HIDDEN = frozenset(map(digest_of, (b"1.a", b"2.b", b"3.c")))
NONE = frozenset()


class HiddenFileTests(MaildirCase):
    """The file, and what is done with one that is not right."""

    def setUp(self):
        """Open the Maildir."""
        super().setUp()
        self.fd = os.open(self.path_of(b""), DIRECTORY)
        self.addCleanup(os.close, self.fd)

    def test_save(self):
        """A file is replaced whole, and belongs to the owner of the Maildir."""
        os.chown(self.path_of(b""), NOBODY, NOBODY)
        self.assertEqual(load(self.fd), NONE)
        self.put(b"popserv-hidden.new", b"unfinished")
        save(self.fd, HIDDEN)
        status = os.stat(self.path_of(NAME))
        self.assertEqual((status.st_uid, status.st_mode & 0o777), (NOBODY, 0o640))
        self.assertEqual(load(self.fd), HIDDEN)
        with mock.patch.object(os, "fchown", side_effect=PermissionError):
            save(self.fd, NONE)
        self.assertEqual(load(self.fd), NONE)

    def test_octets(self):
        """The octets are those that former versions of popserv read and write."""
        text = b"popserv hidden 1\n" + b"".join(sorted(HIDDEN))
        digest = blake2b(text, digest_size=16).digest()
        self.put(b"popserv-hidden.new", b"unfinished")
        save(self.fd, HIDDEN)
        with open(self.path_of(b"popserv-hidden"), "rb") as file:
            self.assertEqual(file.read(), text + digest)
        self.assertFalse(os.path.exists(self.path_of(b"popserv-hidden.new")))
        self.assertEqual(digest_of(b"1.a"), blake2b(b"1.a", digest_size=16).digest())

    def test_is_damaged(self):
        """Whether a file is damaged is told without a log line; a missing file is not damaged."""
        self.assertFalse(hidden_file.is_damaged(self.fd))
        save(self.fd, HIDDEN)
        self.assertFalse(hidden_file.is_damaged(self.fd))
        self.put(NAME, b"popserv hidden 1\n")
        self.assertTrue(hidden_file.is_damaged(self.fd))

    def test_not_saved(self):
        """A file that cannot be written leaves the old one, and nothing else."""
        save(self.fd, HIDDEN)
        for call in ("open", "fsync", "rename"):
            with failing(os, call, OSError(28, "full")), self.assertRaises(OSError):
                save(self.fd, NONE)
        self.assertEqual(load(self.fd), HIDDEN)
        self.assertEqual(sorted(os.listdir(self.fd)), ["cur", "new", os.fsdecode(NAME), "tmp"])

    def test_damaged(self):
        """A torn, damaged or foreign file hides nothing, whatever octet is wrong."""
        save(self.fd, HIDDEN)
        with open(self.path_of(NAME), "rb") as file:
            text = file.read()
        for at in range(len(text)):
            for damaged in (text[:at], text[:at] + bytes([text[at] ^ 1]) + text[at + 1 :]):
                self.put(NAME, damaged)
                with mock.patch.object(hidden_file, "_log") as log:
                    self.assertEqual(load(self.fd), NONE)
                (problem,) = log.warn.call_args.kwargs.values()
                path = os.path.abspath(os.fsdecode(self.path_of(NAME)))
                self.assertEqual(str(problem), f"{path}: the file is damaged")

    def test_untrusted(self):
        """What is not a regular file is an error, and so is a file that is too long."""
        save(self.fd, HIDDEN)
        with mock.patch.object(small_files, "MAX_OCTETS", 10), self.assertRaises(OSError):
            load(self.fd)
        os.unlink(self.path_of(NAME))
        for kind, make in SPECIAL_FILES.items():
            make(self.path_of(NAME))
            with self.assertRaises(OSError, msg=kind) as refused:
                load(self.fd)
            self.assertEqual(refused.exception.filename, NAME)
            (os.rmdir if kind == "a directory" else os.unlink)(self.path_of(NAME))
