"""popserv.maildrops.maildir.files: files are found again, and links are not followed."""

import os
import shutil
from types import SimpleNamespace

from twisted.trial.unittest import SynchronousTestCase

from popserv.errors import MaildropUnavailable, NoSuchMessage, RemovalFailed
from popserv.maildrops.maildir.files import stamp_of
from tests.maildrops.maildir.harness import (
    RENAMES,
    SPECIAL_FILES,
    MaildirCase,
    read_message,
    result,
)


class StampTests(SynchronousTestCase):
    """stamp_of."""

    def test_stamps(self):
        """A stamp never changes, otherwise all messages are counted again."""
        for octets, stamp in (
            (4096, 0x779B_97F4_A7D4_2687),
            (65_535, 0xDB82_0590_FCDD_5A72),
            (65_536, 0xC96A_CD46_5418_6702),
        ):
            status = SimpleNamespace(
                st_ino=1_234_567, st_size=octets, st_mtime_ns=1_700_000_000_123_456_789
            )
            self.assertEqual(stamp_of(status), stamp)


class RenameTests(MaildirCase):
    """A message that another program has renamed is found by its base name."""

    def test_renamed(self):
        """A message renamed since the login is read."""
        for old, new in RENAMES:
            self.put(old)
            with self.session() as mailbox:
                self.move(old, new)
                self.assertEqual(read_message(mailbox, 0), b"x\n", new)
            os.unlink(self.path_of(new))

    def test_vanished(self):
        """A message that another program removed cannot be read, and the session goes on."""
        self.put(b"new/1.a")
        with self.session() as mailbox:
            os.unlink(self.path_of(b"new/1.a"))
            for _ in range(2):
                with self.assertRaises(NoSuchMessage):
                    read_message(mailbox, 0)
            result(mailbox.remove(mailbox.messages))

    def test_link_to_message(self):
        """A link to a message that was renamed is not removed instead of the message."""
        for old, new in ((b"new/1.a", b"cur/1.a:2,S"), (b"cur/2.b:2,S", b"new/2.b")):
            self.put(old)
            with self.session() as mailbox:
                self.move(old, new)
                os.symlink(b"../" + new, self.path_of(old))
                result(mailbox.remove(mailbox.messages))
            self.assertFalse(os.path.exists(self.path_of(new)))
            self.assertTrue(os.path.islink(self.path_of(old)))
            os.unlink(self.path_of(old))

    def test_changed_in_place(self):
        """A message that was changed in place is removed, and so are the others."""
        for name in (b"1.a", b"2.b", b"3.c"):
            self.put(b"new/" + name)
        with self.session() as mailbox:
            self.put(b"new/1.a", b"longer\n")
            result(mailbox.remove(mailbox.messages))
        self.assertEqual(os.listdir(self.path_of(b"new")), [])


class SpecialFileTests(MaildirCase):
    """Only regular files are opened."""

    def test_message_replaced(self):
        """A message replaced by a special file has vanished, and the others are still there."""
        for kind, make in SPECIAL_FILES.items():
            self.put(b"new/1.a")
            self.put(b"new/2.b", b"b\n")
            with self.session() as mailbox:
                os.unlink(self.path_of(b"new/1.a"))
                make(self.path_of(b"new/1.a"))
                with self.assertRaises(NoSuchMessage, msg=kind):
                    read_message(mailbox, 0)
                self.assertEqual(read_message(mailbox, 1), b"b\n")
            shutil.rmtree(self.path_of(b"new"))
            os.mkdir(self.path_of(b"new"))

    def test_folder_replaced(self):
        """If a folder is replaced by a link, no mail behind the link is read or removed."""
        self.make_maildir(b"bob")
        for user in (b"ann", b"bob"):
            self.put(b"cur/1.x", user, user=user)
        self.put(b"new/2.y")
        with self.session() as mailbox:
            os.rename(self.path_of(b"cur"), self.path_of(b"away"))
            os.symlink("../bob/cur", self.path_of(b"cur"))
            with self.assertRaises(MaildropUnavailable):
                read_message(mailbox, 0)
            with self.assertRaises(RemovalFailed) as raised:
                result(mailbox.remove(mailbox.messages))
        self.assertEqual(raised.exception.remaining, 1)
        self.assertEqual(os.listdir(self.path_of(b"new")), [])
        self.assertEqual(os.listdir(self.path_of(b"cur", b"bob")), [b"1.x"])
