"""Tests of popserv.maildrops.maildir.trash."""

import contextlib
import errno
import os
import re
import shutil
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from unittest import mock

from twisted.trial.unittest import TestCase

from popserv.core.user_folder import UserFolder
from popserv.errors import RemovalFailed
from popserv.maildrops.maildir import folders, trash
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

TOKEN = re.compile(rb"\.R[0-9a-f]{20}(?=[.,:;!])")
"""What no other file's name has."""

CALLS = ("open", "mkdir", "fchown", "stat", "link", "rename", "unlink", "fsync")
"""The system calls that may be made while messages are moved."""


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
        """Return the names in the folder but for their tokens, and the contents, in order."""
        found = []
        for name in os.listdir(self.path_of(b".Trash/cur")):
            shortened, number = TOKEN.subn(b"", name)
            self.assertEqual(number, 1, name)
            with open(self.path_of(b".Trash/cur/" + name), "rb") as file:
                found.append((shortened, file.read()))
        return sorted(found)

    def bodies(self, *folders):
        """Return the contents of all files of some folders, in order."""
        return sorted(
            path.read_bytes()
            for folder in folders
            for path in Path(self.root, "ann", folder).glob("*")
        )

    @contextmanager
    def at_call(self, number, action):
        """Let something happen at the system call with this number; yield a list of its name."""
        numbers, calls = count(), []

        def wrap(name, real):
            def function(*args, **kwargs):
                if next(numbers) == number:
                    calls.append(name)
                    action()
                return real(*args, **kwargs)

            return function

        with ExitStack() as stack:
            for name in CALLS:
                stack.enter_context(mock.patch.object(os, name, wrap(name, getattr(os, name))))
            yield calls

    def test_move(self):
        """A message keeps its flags, inode, time and fields; a new one is in cur as well."""
        self.put(b"new/1.a", b"1\n")
        self.put(b"cur/2.b.host,S=2,W=3:2,FS", b"2\n")
        self.put(b"maildirsize", QUOTA)
        inode = os.stat(self.path_of(b"new/1.a")).st_ino
        self.remove_all()
        self.assertEqual(self.file_names(), [])
        self.assertEqual(self.trashed(), [(b"1:2,", b"1\n"), (b"2.host,S=2,W=3:2,FS", b"2\n")])
        with os.scandir(self.path_of(b".Trash/cur")) as entries:
            self.assertIn(inode, [entry.inode() for entry in entries])
        self.assertEqual(
            sorted(os.listdir(self.path_of(b".Trash"))), [b"cur", b"maildirfolder", b"new", b"tmp"]
        )
        with open(self.path_of(b"maildirsize"), "rb") as file:
            self.assertEqual(file.read(), QUOTA)

    def test_keywords(self):
        """The letters of keywords, which mean something else in each folder, do not stay."""
        for name, moved in (
            (b"1.a:2,FSab", b"1:2,FS"),
            (b"1.a:2,c", b"1:2,"),
            (b"1.a;2,Sa", b"1;2,S"),
            (b"1.a:1,ab", b"1:1,ab"),
        ):
            self.put(b"cur/" + name)
            self.remove_all()
            self.assertEqual(self.trashed(), [(moved, b"x\n")])
            shutil.rmtree(self.path_of(b".Trash"))

    def test_again(self):
        """The folder is used again; a message that has had the same name is not replaced."""
        for number in range(3):
            self.put(b"new/1.a", b"%d\n" % number)
            self.remove_all()
        self.assertEqual(self.trashed(), [(b"1:2,", b"%d\n" % number) for number in range(3)])

    def test_links(self):
        """A symbolic link is moved as such."""
        self.put(b"other", b"other\n")
        os.symlink("../other", self.path_of(b"new/1.a"))
        maildir, new = (os.open(self.path_of(name), DIRECTORY) for name in (b"", b"new"))
        folder = trash.Trash(maildir, ".Trash")
        folder.move(b"1.a", dir_fd=new)
        folder.close()
        for fd in (maildir, new):
            os.close(fd)
        (name,) = os.listdir(self.path_of(b".Trash/cur"))
        self.assertTrue(os.path.islink(self.path_of(b".Trash/cur/" + name)))
        self.assertEqual(self.file_names(), [])

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
        """New directories are synced, and the folder once for all messages, before the others."""
        done = []
        rename = os.rename

        def path_at(fd):
            return os.path.relpath(os.readlink(b"/proc/self/fd/%d" % fd), os.fsencode(self.root))

        def record_rename(name, *args, **kwargs):
            done.append(name)
            rename(name, *args, **kwargs)

        folder = b"ann/.Trash/cur"
        for directories in ({b"ann", b"ann/.Trash"}, set()):
            for name in (b"1.a", b"2.b"):
                self.put(b"new/" + name)
            with (
                mock.patch.object(os, "fsync", lambda fd: done.append(path_at(fd))),
                mock.patch.object(os, "rename", record_rename),
            ):
                self.remove_all()
            at = done.index(b"1.a")
            self.assertEqual({*done[:at]}, directories)
            self.assertEqual(done[at : at + 3], [b"1.a", b"2.b", folder])
            self.assertIn(b"ann/new", done[at + 3 :])
            done.clear()

    def test_not_synced(self):
        """If the folder cannot be synced, the messages do not count as removed."""
        self.put(b"new/1.a")
        self.put(b"new/2.b")
        self.remove_all()
        self.put(b"new/3.c")
        fault = failing(os, "fsync", OSError(errno.EIO, "broken"))
        with self.session() as mailbox, fault, self.assertRaises(RemovalFailed) as failed:
            result(mailbox.remove(mailbox.messages))
        self.assertEqual(failed.exception.remaining, 1)
        self.assertEqual(str(failed.exception.__cause__), f"{self.root}/ann/.Trash: broken")

    def test_one_name(self):
        """Whichever call fails, or is the server's last, each message is in one place."""
        contents = [b"1\n", b"2\n"]
        for error in (OSError(errno.EIO, "broken"), KeyboardInterrupt()):
            for number in count():
                self.restart()
                self.put(b"new/1.a", b"1\n")
                self.put(b"cur/2.b:2,S", b"2\n")
                with self.session() as mailbox:
                    fault = mock.Mock(side_effect=error)
                    with (
                        self.at_call(number, fault) as calls,
                        contextlib.suppress(RemovalFailed, KeyboardInterrupt),
                    ):
                        result(mailbox.remove(mailbox.messages))
                self.assertEqual(self.bodies("new", "cur", ".Trash/cur"), contents, calls)
                self.remove_all()
                self.assertEqual(self.bodies(".Trash/cur"), contents, calls)
                shutil.rmtree(self.path_of(b".Trash"))
                if not calls:
                    break
            self.assertGreater(number, 10)

    def test_meanwhile(self):
        """Whenever another program takes a message, nothing of it is in the folder."""
        self.patch(folders, "CLOCK_TICK", -1)
        os.makedirs(self.path_of(b".Away/cur"))
        for is_found, take, *to in (
            (False, os.rename, b".Away/cur/2.b:2,"),
            (False, os.unlink),
            (True, os.rename, b"cur/2.b:2,S"),
        ):
            outcomes = set()
            for number in count():
                is_taken, is_called = self.remove_while(number, take, *to)
                expected = [b"1\n", b"2\n", b"3\n"]
                if is_taken and not is_found:
                    expected.remove(b"2\n")
                self.assertEqual(self.bodies(".Trash/cur"), expected, number)
                self.assertEqual(self.file_names(), [])
                shutil.rmtree(self.path_of(b".Trash"))
                if not is_called:
                    break
                outcomes.add(is_taken)
            self.assertEqual(outcomes, {True, False})

    def remove_while(self, number, take, *to):
        """Remove messages, of which another program takes one at a system call.

        Return whether it has, and whether there was such a call.
        """
        self.restart()
        for name, body in ((b"new/1.a", b"1\n"), (b"cur/2.b:2,", b"2\n"), (b"new/3.c", b"3\n")):
            self.put(name, body)
        taken = []

        def action():
            # It may have been moved before.
            with contextlib.suppress(FileNotFoundError):
                take(*map(self.path_of, (b"cur/2.b:2,", *to)))
                taken.append(to)

        with self.session() as mailbox, self.at_call(number, action) as calls:
            result(mailbox.remove(mailbox.messages))
        return bool(taken), bool(calls)

    def test_faults(self):
        """If the folder cannot be made or used, the messages remain, and the log has the path."""
        self.put(b"new/1.a", b"1\n")
        for call in ("mkdir", "rename"):
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
        self.assertEqual(self.trashed(), [(b"1:2,", b"1\n")])

    def test_beside(self):
        """A folder that is served has its removed messages in a folder beside it."""
        for folder in (b".Sent/new", b".Sent/cur", b".Old/new", b".Old/cur"):
            os.makedirs(self.path_of(folder))
        self.put(b".Sent/new/1.a", b"1\n")
        self.put(b".Old/new/2.a", b"2\n")
        self.maildrops = MaildirMaildrops(self.root, folder=".Sent", trash=".Trash", run=run_inline)
        self.remove_all()
        self.assertEqual(self.trashed(), [(b"1:2,", b"1\n")])
        mailbox = result(self.maildrops.open_maildrop(UserFolder(b"ann", b"Old")))
        result(mailbox.remove(mailbox.messages))
        result(mailbox.release())
        self.assertEqual(self.trashed(), [(b"1:2,", b"1\n"), (b"2:2,", b"2\n")])


class ContractTests(MaildirContract, TestCase):
    """The contract holds if messages are moved."""

    options = {"run": run_inline, "trash": ".Trash"}

    def failing_removal(self, _factory, _user):
        """Let the system refuse to move the first message."""
        error = PermissionError(errno.EACCES, "no")
        return failing(os, "rename", error, lambda name, *_: name == b"0.x")
