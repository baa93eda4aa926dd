"""Tests of popserv.maildrops.maildir.trash."""

import os
import shutil
from unittest import mock

from twisted.trial.unittest import TestCase

from popserv.core.user_folder import UserFolder
from popserv.errors import RemovalFailed
from popserv.maildrops.maildir import trash
from popserv.maildrops.maildir.store import MaildirMaildrops
from tests.maildrops.maildir.harness import (
    DIRECTORY,
    NOBODY,
    SPECIAL_FILES,
    MaildirCase,
    failing,
    result,
    run_inline,
)
from tests.maildrops.maildir.test_store import MaildirContract

QUOTA = b"1000S\n10 1\n"


class TrashTests(MaildirCase):
    """Removed messages are in the folder, and no message is lost or replaced."""

    def restart(self):
        """Move removed messages to a folder."""
        self.maildrops = MaildirMaildrops(self.root, trash=".Trash", run=run_inline)

    def remove_all(self):
        """Remove all messages in a session of their own."""
        with self.session() as mailbox:
            result(mailbox.remove(mailbox.messages))

    def trashed(self):
        """Return the contents of the folder by name."""
        found = {}
        for name in os.listdir(self.path_of(b".Trash/cur")):
            with open(self.path_of(b".Trash/cur/" + name), "rb") as file:
                found[name] = file.read()
        return found

    def test_move(self):
        """A message keeps its name, flags and inode; a new one is in cur as well."""
        self.put(b"new/1.a", b"1\n")
        self.put(b"cur/2.b,S=2:2,FS", b"2\n")
        self.put(b"maildirsize", QUOTA)
        inode = os.stat(self.path_of(b"new/1.a")).st_ino
        self.remove_all()
        self.assertEqual(self.file_names(), [])
        self.assertEqual(self.trashed(), {b"1.a:2,": b"1\n", b"2.b,S=2:2,FS": b"2\n"})
        self.assertEqual(os.stat(self.path_of(b".Trash/cur/1.a:2,")).st_ino, inode)
        self.assertEqual(
            sorted(os.listdir(self.path_of(b".Trash"))), [b"cur", b"maildirfolder", b"new", b"tmp"]
        )
        with open(self.path_of(b"maildirsize"), "rb") as file:
            self.assertEqual(file.read(), QUOTA)

    def test_keywords(self):
        """The letters of keywords, which mean something else in each folder, do not stay."""
        for name, moved in (
            (b"1.a:2,FSab", b"1.a:2,FS"),
            (b"1.a:2,c", b"1.a:2,"),
            (b"1.a;2,Sa", b"1.a;2,S"),
            (b"1.a:1,ab", b"1.a:1,ab"),
        ):
            self.put(b"cur/" + name)
            self.remove_all()
            self.assertEqual(list(self.trashed()), [moved])
            os.unlink(self.path_of(b".Trash/cur/" + moved))

    def test_again(self):
        """The folder is used again; another file with the same name is not replaced."""
        for number in range(3):
            self.put(b"new/1.a", b"%d\n" % number)
            self.remove_all()
        self.assertEqual(sorted(self.trashed().values()), [b"0\n", b"1\n", b"2\n"])
        for name in self.trashed().keys() - {b"1.a:2,"}:
            # The time of delivery stays, and a number that no other file has follows.
            self.assertRegex(name, rb"\A1\.R[0-9a-f]{20}:2,\Z")

    def test_links(self):
        """A link in the folder is not taken for the message, and one to a file is moved as such."""
        self.put(b"new/1.a", b"1\n")
        os.makedirs(self.path_of(b".Trash/cur"))
        os.symlink("../../new/1.a", self.path_of(b".Trash/cur/1.a:2,"))
        self.remove_all()
        os.unlink(self.path_of(b".Trash/cur/1.a:2,"))
        self.assertEqual([*self.trashed().values()], [b"1\n"])
        self.put(b"other", b"other\n")
        self.put(b".Trash/cur/3.c:2,", b"3\n")
        os.symlink("../other", self.path_of(b"new/2.b"))
        os.symlink("../.Trash/cur/3.c:2,", self.path_of(b"new/3.c"))
        maildir, new = (os.open(self.path_of(name), DIRECTORY) for name in (b"", b"new"))
        folder = trash.Trash(maildir, ".Trash")
        for name in (b"2.b", b"3.c"):
            folder.move(name, dir_fd=new)
        folder.close()
        for fd in (maildir, new):
            os.close(fd)
        names = os.listdir(self.path_of(b".Trash/cur"))
        are_links = [os.path.islink(self.path_of(b".Trash/cur/" + name)) for name in names]
        self.assertEqual((self.file_names(), sum(are_links), len(names)), ([], 2, 4))
        self.assertEqual(os.stat(self.path_of(b"other")).st_nlink, 1)

    def test_special_files(self):
        """What is in the place of a directory and is none is refused."""
        self.put(b"new/1.a", b"1\n")
        for name in (b".Trash", b".Trash/tmp", b".Trash/new", b".Trash/cur"):
            for kind, make in SPECIAL_FILES.items():
                if kind == "a directory":
                    continue
                make(self.path_of(name))
                with self.session() as mailbox, self.assertRaises(RemovalFailed, msg=kind):
                    result(mailbox.remove(mailbox.messages))
                os.unlink(self.path_of(name))
            os.mkdir(self.path_of(name))
        self.assertEqual(self.file_names(), [b"new/1.a"])

    def test_synced(self):
        """New directories and all links are on disk before a message is removed, then that is."""
        done = []
        unlink = os.unlink

        def path_at(fd):
            return os.path.relpath(os.readlink(b"/proc/self/fd/%d" % fd), os.fsencode(self.root))

        def record_unlink(name, *, dir_fd):
            done.append(name)
            unlink(name, dir_fd=dir_fd)

        folder = b"ann/.Trash/cur"
        for names, synced in (
            ((b"1.a", b"2.b"), {b"ann", b"ann/.Trash", folder}),
            # The folder has another file with this name.
            ((b"2.b",), {folder}),
        ):
            for name in names:
                self.put(b"new/" + name, name)
            with (
                mock.patch.object(os, "fsync", lambda fd: done.append(path_at(fd))),
                mock.patch.object(os, "unlink", record_unlink),
            ):
                self.remove_all()
            at = done.index(names[0])
            self.assertEqual((set(done[:at]), done[at - 1]), (synced, folder))
            self.assertEqual(done[at : at + len(names)], [*names])
            self.assertIn(b"ann/new", done[at + len(names) :])
            done.clear()
        self.assertEqual(len(self.trashed()), 3)

    def test_synced_alone(self):
        """So is the link of a file that was not linked before, or has a name that is taken."""
        maildir, new = (os.open(self.path_of(name), DIRECTORY) for name in (b"", b"new"))
        folder = trash.Trash(maildir, ".Trash")
        for content in (b"1\n", b"2\n"):
            self.put(b"new/1.a", content)
            calls = mock.Mock(wraps=os)
            with (
                mock.patch.object(os, "fsync", calls.fsync),
                mock.patch.object(os, "unlink", calls.unlink),
            ):
                folder.move(b"1.a", dir_fd=new)
            self.assertEqual([name for name, _, _ in calls.mock_calls], ["fsync", "unlink"])
        for fd in (maildir, new):
            os.close(fd)
        folder.close()
        self.assertEqual(sorted(self.trashed().values()), [b"1\n", b"2\n"])

    def test_killed(self):
        """If the server is killed between any two calls, the next QUIT completes the move."""
        for call in ("link", "unlink", "mkdir", "fsync", "fchown"):
            self.put(b"new/1.a", b"1\n")
            killed = failing(os, call, KeyboardInterrupt)
            with self.session() as mailbox, killed, self.assertRaises(KeyboardInterrupt):
                result(mailbox.remove(mailbox.messages))
            self.remove_all()
            self.assertEqual(self.file_names(), [])
            self.assertEqual(self.trashed(), {b"1.a:2,": b"1\n"})
            shutil.rmtree(self.path_of(b".Trash"))

    def test_faults(self):
        """If the folder cannot be made or used, the messages remain, and the log has the path."""
        self.put(b"new/1.a", b"1\n")
        for call in ("mkdir", "link"):
            fault = failing(os, call, PermissionError(13, "Permission denied"))
            with self.session() as mailbox, fault, self.assertRaises(RemovalFailed) as failed:
                result(mailbox.remove(mailbox.messages))
            self.assertEqual(failed.exception.remaining, 1)
            self.assertEqual(self.file_names(), [b"new/1.a"])
        os.rename(self.path_of(b".Trash"), self.path_of(b"other"))
        os.symlink("other", self.path_of(b".Trash"))
        with self.session() as mailbox, self.assertRaises(RemovalFailed) as failed:
            result(mailbox.remove(mailbox.messages))
        self.assertIn("/.Trash is a symbolic link", str(failed.exception.__cause__))

    def test_owner(self):
        """A new folder belongs to the owner of the Maildir, if the server may set it."""
        os.chown(self.path_of(b""), NOBODY, NOBODY)
        os.chmod(self.path_of(b""), 0o750)
        for error, owner in ((None, NOBODY), (PermissionError, os.geteuid())):
            self.put(b"new/1.a", b"1\n")
            with mock.patch.object(trash.os, "fchown", side_effect=error) as fchown:
                self.remove_all()
            self.assertEqual(fchown.call_count, 5)
            if error:
                for name in (b"", b"/cur"):
                    mode = os.stat(self.path_of(b".Trash" + name)).st_mode
                    self.assertEqual(mode & 0o777, 0o700)
            os.rename(self.path_of(b".Trash"), self.path_of(b"other%d" % owner))
        self.put(b"new/1.a", b"1\n")
        os.chmod(self.path_of(b""), 0o777)
        self.remove_all()
        self.assertEqual(os.stat(self.path_of(b".Trash/cur")).st_mode & 0o777, 0o777)
        self.assertEqual(os.stat(self.path_of(b".Trash/maildirfolder")).st_mode & 0o777, 0o660)
        shutil.rmtree(self.path_of(b".Trash"))
        os.chmod(self.path_of(b""), 0o750)
        self.put(b"new/1.a", b"1\n")
        self.remove_all()
        for name in (b"", b"/cur", b"/maildirfolder"):
            status = os.stat(self.path_of(b".Trash" + name))
            self.assertEqual(status.st_uid, NOBODY)
            self.assertEqual(status.st_mode & 0o777, 0o640 if b"m" in name else 0o750)

    def test_raced(self):
        """Directories that another program creates at the same time are used."""
        self.put(b"new/1.a", b"1\n")
        real = os.mkdir

        def mkdir(name, *args, **kwargs):
            real(name, *args, **kwargs)
            real(name, *args, **kwargs)

        with mock.patch.object(os, "mkdir", mkdir):
            self.remove_all()
        self.assertEqual(self.trashed(), {b"1.a:2,": b"1\n"})

    def test_beside(self):
        """A folder that is served has its removed messages in a folder beside it."""
        for folder in (b".Sent/new", b".Sent/cur", b".Old/new", b".Old/cur"):
            os.makedirs(self.path_of(folder))
        self.put(b".Sent/new/1.a", b"1\n")
        self.put(b".Old/new/2.a", b"2\n")
        self.maildrops = MaildirMaildrops(self.root, folder=".Sent", trash=".Trash", run=run_inline)
        self.remove_all()
        self.assertEqual(self.trashed(), {b"1.a:2,": b"1\n"})
        mailbox = result(self.maildrops.open_maildrop(UserFolder(b"ann", b"Old")))
        result(mailbox.remove(mailbox.messages))
        result(mailbox.release())
        self.assertEqual(self.trashed(), {b"1.a:2,": b"1\n", b"2.a:2,": b"2\n"})


class ContractTests(MaildirContract, TestCase):
    """The contract holds if messages are moved."""

    options = {"run": run_inline, "trash": ".Trash"}
