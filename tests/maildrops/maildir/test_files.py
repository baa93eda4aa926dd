"""popserv.maildrops.maildir.files: files are found again, and links are not followed."""

import os
import shutil

from popserv.errors import MaildropUnavailable, NoSuchMessage, RemovalFailed
from tests.maildrops.maildir.harness import (
    RENAMES,
    SPECIAL_FILES,
    MaildirCase,
    read_message,
    result,
)


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
        with self.session() as mailbox:
            os.rename(self.path_of(b"cur"), self.path_of(b"away"))
            os.symlink("../bob/cur", self.path_of(b"cur"))
            with self.assertRaises(MaildropUnavailable):
                read_message(mailbox, 0)
            with self.assertRaises(RemovalFailed):
                result(mailbox.remove([mailbox.messages[0]]))
        self.assertEqual(os.listdir(self.path_of(b"cur", b"bob")), [b"1.x"])
