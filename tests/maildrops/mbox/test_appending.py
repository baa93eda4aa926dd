"""popserv.maildrops.mbox.appending: an append that was interrupted is undone."""

import errno
import os
import stat
from contextlib import ExitStack
from itertools import groupby
from unittest import mock

from popserv.errors import MaildropUnavailable
from popserv.maildrops.mbox import appending
from popserv.maildrops.mbox.appending import Batch, journal_name, undo_append
from popserv.maildrops.mbox.spool import Spool
from tests.maildrops.maildir.harness import failing, result
from tests.maildrops.mbox.harness import MboxCase, mbox_of, stored

OLD = [b"Subject: old\n\nbody\n"]
NEW = [b"Subject: %d\n\n" % number + b"%d.\n" % number * 60 for number in range(3)]
WHOLE = len(mbox_of(NEW))
FROM_LENGTH = len(stored(b"")) - 1


class Killed(BaseException):
    """The process was killed."""


class AppendingTests(MboxCase):
    """Batches of messages are appended to a file."""

    def setUp(self):
        """Write a file; copy in small pieces."""
        super().setUp()
        self.patch(appending, "_CHUNK", 50)
        self.write(mbox_of(OLD))
        self.journal = os.path.join(self.root, os.fsdecode(journal_name(b"ann")))
        self.touches = 0

    def append_batch(self, *chunks):
        """Append messages, or chunks, each as one addition that may fail."""
        parent = os.open(self.root, os.O_PATH)
        fd = os.open(self.path, os.O_RDWR)
        batch = Batch(parent, b"ann")
        try:
            for each in chunks or [[stored(each, at) for at, each in enumerate(NEW)]]:
                try:
                    batch.add(each)
                except KeyError:
                    continue
            batch.append(fd, self.touch)
        finally:
            batch.close()
            os.close(fd)
            os.close(parent)

    def touch(self):
        """Count the calls."""
        self.touches += 1

    def kill_while_appending(self, written):
        """Append, and end after so many octets of the mbox file."""
        real = os.pwrite
        inode = os.stat(self.path).st_ino
        left = written

        def pwrite(fd, text, offset):
            nonlocal left
            if os.fstat(fd).st_ino != inode:
                return real(fd, text, offset)
            if left < len(text):
                real(fd, bytes(text)[:left], offset)
                raise Killed
            left -= len(text)
            return real(fd, text, offset)

        with mock.patch.object(os, "pwrite", pwrite), self.assertRaises(Killed):
            self.append_batch()
        self.assertTrue(os.path.exists(self.journal))

    def test_appended(self):
        """The messages follow the others, with an empty line between, and nothing is left."""
        end = len(mbox_of(OLD))
        for before in (
            b"",
            mbox_of(OLD),
            mbox_of(OLD)[: end - 1],
            mbox_of(OLD)[: end - 2],
            mbox_of(OLD)[: end - 2] + b"\r",
            mbox_of(OLD)[: end - 2] + b"\r\n\r\n",
        ):
            self.write(before)
            with self.session() as mailbox:
                octets = [*mailbox.messages.octets]
            self.append_batch()
            with self.session() as mailbox:
                self.assertEqual([*mailbox.messages.octets[: len(octets)]], octets)
            self.assertEqual(self.read_all()[len(octets) :], NEW)
            self.assertEqual(os.listdir(self.root), ["ann"])

    def steps(self, function):
        """Return the changes and syncs that a function makes, each with what is changed."""
        steps = []
        inode = os.stat(self.path).st_ino

        def wrap(name):
            real = getattr(os, name)

            def call(first, *args, **kwargs):
                place = first
                if isinstance(first, int):
                    status = os.fstat(first)
                    place = "directory" if stat.S_ISDIR(status.st_mode) else "journal"
                    place = "mbox" if status.st_ino == inode else place
                steps.append((name, place))
                return real(first, *args, **kwargs)

            return mock.patch.object(os, name, call)

        with ExitStack() as stack:
            for name in ("pwrite", "ftruncate", "fsync", "fdatasync", "rename", "unlink"):
                stack.enter_context(wrap(name))
            function()
        return [step for step, _ in groupby(steps)]

    def test_synced(self):
        """Each step is on disk before the next one relies on it.

        The journal is, with its name, before the mbox file is changed, and that is before the
        journal is removed.
        """
        journal = journal_name(b"ann")
        begin = [
            *(("unlink", journal + b".new"), ("pwrite", "journal"), ("ftruncate", "journal")),
            *(("pwrite", "journal"), ("fsync", "journal"), ("rename", journal + b".new")),
            *(("fsync", "directory"), ("pwrite", "mbox")),
        ]
        end = [("fsync", "mbox"), ("unlink", journal), ("fsync", "directory")]
        self.assertEqual(self.steps(self.append_batch), begin + end)
        self.write(mbox_of(OLD))
        self.kill_while_appending(70)
        undone = [("ftruncate", "mbox"), *end, ("unlink", b"ann.lock")]
        self.assertEqual(self.steps(self.read_all), undone)

    def test_failure_synced(self):
        """If the messages cannot be appended, their removal is on disk before that of the journal.

        If the journal cannot be removed, the next session does that.
        """
        full = OSError(errno.ENOSPC, "full")
        inode, size = os.stat(self.path).st_ino, os.path.getsize(self.path)
        journal = journal_name(b"ann")

        def append():
            with (
                failing(
                    *(os, "pwrite", full),
                    lambda fd, _, at: os.fstat(fd).st_ino == inode and at > size,
                ),
                self.assertRaises(OSError),
            ):
                self.append_batch()

        undone = [("ftruncate", "mbox"), ("fsync", "mbox")]
        removed = [("unlink", journal), ("fsync", "directory")]
        self.assertEqual(self.steps(append)[-4:], undone + removed)
        denied = PermissionError(errno.EACCES, "denied")
        with failing(os, "unlink", denied, lambda name, **_: name == journal):
            self.assertEqual(self.steps(append)[-3:], [*undone, removed[0]])
        self.assertTrue(os.path.exists(self.journal))
        self.assertEqual(self.read_all(), OLD)
        self.assertFalse(os.path.exists(self.journal))

    def test_separator(self):
        """There is one empty line before the messages, and none at the start of a file."""
        old = mbox_of(OLD)
        for before, separator in (
            *((b"", b""), (b"\n\n", b""), (b"\r\n\r\n", b""), (old, b"")),
            *((old[:-1], b"\n"), (old[:-2], b"\n\n"), (old[:-2] + b"\r", b"\r\n\n")),
            (old[:-2] + b"\r\n\r\n", b""),
        ):
            self.write(before)
            self.append_batch()
            self.assertEqual(self.contents(), before + separator + mbox_of(NEW))

    def test_after_failure(self):
        """A batch that could not be appended is empty, and can be used again."""
        parent = os.open(self.root, os.O_PATH)
        fd = os.open(self.path, os.O_RDWR)
        inode, size = os.fstat(fd).st_ino, os.fstat(fd).st_size
        batch = Batch(parent, b"ann")
        full = OSError(errno.ENOSPC, "full")
        for number, fails in enumerate(
            (
                lambda fd, _, at: os.fstat(fd).st_ino != inode and at == 0,
                lambda fd, _, at: os.fstat(fd).st_ino == inode and at > size,
            )
        ):
            batch.add([stored(each) for each in NEW])
            with failing(os, "pwrite", full, fails), self.assertRaises(OSError):
                batch.append(fd, lambda: None)
            batch.append(fd, lambda: None)
            self.assertEqual(os.fstat(fd).st_size, size)
            self.assertFalse(os.path.exists(self.journal), number)
        batch.add([stored(NEW[1])])
        batch.append(fd, lambda: None)
        batch.close()
        os.close(fd)
        os.close(parent)
        self.assertEqual(self.contents(), mbox_of(OLD) + stored(NEW[1]))
        self.assertEqual(os.listdir(self.root), ["ann"])

    def test_appended_without_a_lock(self):
        """What a program without locks appends meanwhile is kept, and the messages are refused."""
        for number in (1, 2, 5):
            self.write(mbox_of(OLD))
            self.touches = 0

            def touch(number=number):
                self.touches += 1
                if self.touches == number:
                    self.append(stored(b"other\n"))

            with mock.patch.object(self, "touch", touch), self.assertRaises(OSError) as refused:
                self.append_batch()
            self.assertIn("without a lock", str(refused.exception))
            self.assertEqual(self.contents(), mbox_of(OLD) + stored(b"other\n"))
            self.assertEqual(os.listdir(self.root), ["ann"])

    def test_touched(self):
        """The lock is touched for each piece that is appended."""
        self.append_batch()
        self.assertEqual(self.touches, -(-WHOLE // 50))

    def test_name(self):
        """The journal has the same name in each version, so that another one finds it."""
        self.assertEqual(journal_name(b"ann"), b".ann.popserv-append")

    def test_again(self):
        """A batch can be used again, and is undone if that is interrupted."""
        message = [stored(NEW[0])]
        parent = os.open(self.root, os.O_PATH)
        fd = os.open(self.path, os.O_RDWR)
        batch = Batch(parent, b"ann")
        batch.add(message)
        batch.append(fd, lambda: None)
        before = self.contents()
        batch.add(message)
        with mock.patch.object(os, "unlink", side_effect=Killed), self.assertRaises(Killed):
            batch.append(fd, lambda: None)
        self.assertEqual(self.contents(), before + message[0])
        os.close(fd)
        batch.close()
        os.close(parent)
        self.assertEqual(self.read_all(), [*OLD, NEW[0]])
        self.assertEqual(self.contents(), before)

    def test_owner(self):
        """The journal is for the owner of the mbox file alone, whose session removes it."""
        os.chown(self.path, 12345, 8)
        self.kill_while_appending(70)
        status = os.stat(self.journal)
        self.assertEqual((status.st_uid, status.st_gid), (12345, 8))
        self.assertEqual(status.st_mode & 0o777, 0o600)

    def test_link_in_place(self):
        """Nothing is written to a file that another user has put in the place of the journal."""
        real = os.unlink

        def unlink(name, **kwargs):
            os.symlink("other", self.journal + ".new")

        with open(os.path.join(self.root, "other"), "wb"):
            pass
        with mock.patch.object(os, "unlink", unlink), self.assertRaises(FileExistsError):
            self.append_batch()
        real(self.journal + ".new")
        self.assertEqual(os.path.getsize(os.path.join(self.root, "other")), 0)

    def test_dropped(self):
        """A batch that is not appended leaves no file, nor does one before it that was killed."""
        with open(self.journal + ".new", "wb") as file:
            file.write(b"x" * 9999)
        parent = os.open(self.root, os.O_PATH)
        batch = Batch(parent, b"ann")
        batch.add([stored(NEW[0])])
        self.assertLess(os.path.getsize(self.journal + ".new"), 999)
        batch.close()
        os.close(parent)
        self.assertEqual(os.listdir(self.root), ["ann"])

    def test_short_reads(self):
        """If the system returns less than it was asked for, the rest is read as well."""
        real = os.pread

        def pread(fd, octets, offset):
            return real(fd, (octets + 1) // 2, offset)

        with mock.patch.object(os, "pread", pread):
            self.append_batch()
            after = self.contents()
            self.assertEqual(after, mbox_of(OLD) + mbox_of(NEW))
            self.write(mbox_of(OLD))
            self.kill_while_appending(WHOLE - 1)
            parent = os.open(self.root, os.O_PATH)
            fd = os.open(self.path, os.O_RDWR)
            undo_append(fd, parent, b"ann", lambda: None)
            os.close(fd)
            os.close(parent)
        self.assertEqual(self.contents(), mbox_of(OLD))

    def test_nothing(self):
        """A batch without messages changes nothing, however the file ends."""
        for before in (b"", mbox_of(OLD)[:-2], mbox_of(OLD)[:-1], mbox_of(OLD)):
            self.write(before)
            self.append_batch([])
            self.assertEqual(self.contents(), before)
            self.assertEqual(os.listdir(self.root), ["ann"])
        parent = os.open(self.root, os.O_PATH)
        batch = Batch(parent, b"ann")
        batch.append(-1, lambda: None)
        batch.close()
        os.close(parent)
        self.assertEqual(self.contents(), mbox_of(OLD))

    def test_failed_addition(self):
        """A message that cannot be read is no part of the batch."""

        def broken():
            yield b"x" * 999
            raise KeyError

        self.append_batch([stored(NEW[0])], broken())
        self.assertEqual(self.read_all(), OLD + NEW[:1])
        self.assertEqual(self.contents(), mbox_of(OLD) + stored(NEW[0]))

    def test_directory_not_readable(self):
        """If the directory can be searched but not read, the journal itself is synced.

        It is emptied before the messages count as stored: it may be there again after a power loss.
        """
        denied = PermissionError(errno.EACCES, "denied")
        journal = journal_name(b"ann")
        with failing(os, "open", denied, lambda name, *_: os.fsencode(name) == b"."):
            steps = self.steps(self.append_batch)
        at = steps.index(("rename", journal + b".new"))
        mbox = [("pwrite", "mbox"), ("fsync", "mbox")]
        emptied = [("unlink", journal), ("ftruncate", "journal"), ("fsync", "journal")]
        self.assertEqual(steps[at + 1 :], [("fsync", "journal"), *mbox, *emptied])
        self.assertEqual(self.read_all(), OLD + NEW)

    def test_undone(self):
        """The next session sees nothing of an append that was broken off anywhere."""
        for before in (b"", mbox_of(OLD), mbox_of(OLD)[:-2]):
            for written in (*range(60), WHOLE // 2, WHOLE - 1):
                self.write(before)
                self.kill_while_appending(written)
                self.assertEqual(
                    self.read_all(), [OLD[0][: len(before) - FROM_LENGTH]] if before else []
                )
                self.assertEqual(self.contents(), before)
                self.assertEqual(os.listdir(self.root), ["ann"])

    def test_delivered_since(self):
        """Mail that was appended since stays, even if it begins in the middle of a line."""
        for written in (*range(60), len(stored(NEW[0])), WHOLE // 2, WHOLE - 1):
            for number in (0, 9):
                self.write(mbox_of(OLD))
                self.kill_while_appending(written)
                self.append(stored(b"other\n", number))
                self.append(stored(b"another\n", 10))
                self.assertEqual(self.read_all(), [*OLD, b"other\n", b"another\n"])
        self.write(mbox_of(OLD))
        self.kill_while_appending(150)
        self.append(stored(b"other\n").replace(b"ann@", b"x" * 940 + b"@"))
        self.assertEqual(self.read_all(), [*OLD, b"other\n"])

    def test_rewritten_since(self):
        """In a file that another program has rewritten since, nothing is removed."""
        for contents in (
            mbox_of([b"1\n"]),
            mbox_of([b"other\n" * 20, b"x\n"]),
            mbox_of(OLD) + stored(b"other\n" * 20),
        ):
            self.write(mbox_of(OLD))
            self.kill_while_appending(70)
            self.write(contents)
            self.read_all()
            self.assertEqual(self.contents(), contents)
            self.assertFalse(os.path.exists(self.journal))

    def test_full_disk(self):
        """If there is no room for all, the file is what it was."""
        inode = os.stat(self.path).st_ino
        full = OSError(errno.ENOSPC, "full")
        for octets in (0, 50):

            def fails(fd, _text, offset, octets=octets):
                is_mbox = os.fstat(fd).st_ino == inode
                return is_mbox and offset >= len(mbox_of(OLD)) + octets

            with failing(os, "pwrite", full, fails), self.assertRaises(OSError):
                self.append_batch()
            self.assertEqual(self.contents(), mbox_of(OLD))
            self.assertEqual(self.read_all(), OLD)

    def test_invalid_journals(self):
        """A damaged journal, or a link to one, changes nothing, and is removed."""
        self.kill_while_appending(70)
        with open(self.journal, "rb") as file:
            valid = file.read()
        after = mbox_of(OLD) + stored(NEW[0])
        for journal in (b"", valid[:-1], b"x" + valid[1:], valid[:90] + b"\0" + valid[91:]):
            self.write(after)
            with open(self.journal, "wb") as file:
                file.write(journal)
            self.read_all()
            self.assertEqual(self.contents(), after)
            self.assertFalse(os.path.exists(self.journal))
        with open(self.journal, "wb") as file:
            file.write(valid)
        os.link(self.journal, self.journal + ".other")
        self.write(after)
        self.read_all()
        self.assertEqual(self.contents(), after)
        os.mkfifo(self.journal)
        self.restart()
        self.read_all()
        self.assertEqual(self.contents(), after)
        self.assertFalse(os.path.exists(self.journal))

    def test_owners(self):
        """A journal is valid if it is from root, this process, or the owner of the mbox file."""
        after = mbox_of(OLD) + stored(NEW[0])[:70]
        real = os.fstat
        for process, owner, journal, is_valid in (
            (1000, 1001, 1000, True),
            (1000, 1001, 1001, True),
            (1000, 1001, 0, True),
            (1000, 1001, 1002, False),
            (0, 1001, 1002, False),
        ):
            self.write(mbox_of(OLD))
            self.kill_while_appending(70)
            fd = os.open(self.path, os.O_RDWR)
            parent = os.open(self.root, os.O_RDONLY)
            inode = os.fstat(fd).st_ino

            def fstat(fd, inode=inode, owner=owner, journal=journal):
                status = real(fd)
                uid = owner if status.st_ino == inode else journal
                return os.stat_result([*status[:4], uid, *status[5:]])

            with (
                mock.patch.object(os, "fstat", fstat),
                mock.patch.object(os, "geteuid", return_value=process),
            ):
                appending.undo_append(fd, parent, b"ann", lambda: None)
            os.close(fd)
            os.close(parent)
            self.assertEqual(self.contents(), mbox_of(OLD) if is_valid else after)
            self.assertFalse(os.path.exists(self.journal))

    def test_symbolic_link(self):
        """A journal that is a symbolic link is not opened: the maildrop is refused."""
        for target in (self.path, "nowhere"):
            os.symlink(target, self.journal)
            self.restart()
            self.assertRaises(MaildropUnavailable, self.read_all)
            self.assertEqual(self.contents(), mbox_of(OLD))
            os.unlink(self.journal)

    def test_gone(self):
        """A journal that another process has just dealt with is no error."""
        self.kill_while_appending(70)
        with mock.patch.object(os, "open", side_effect=FileNotFoundError):
            appending.undo_append(-1, -1, b"ann", lambda: None)
        self.assertEqual(self.read_all(), OLD)

    def test_read_only(self):
        """A file that cannot be written is refused while an append to it has to be undone."""
        self.kill_while_appending(70)
        with (
            mock.patch.object(Spool, "is_writable", return_value=False),
            self.assertRaises(MaildropUnavailable) as raised,
        ):
            result(self.maildrops.open_maildrop(b"ann"))
        self.assertIn("cannot be written", str(raised.exception.__cause__))
        self.assertEqual(self.read_all(), OLD)

    def test_long_name(self):
        """A file whose journal would have too long a name is read; other errors are errors."""
        user = b"a" * 250
        os.rename(self.path, os.path.join(self.root, user.decode()))
        with self.session(user) as mailbox:
            self.assertEqual(len(mailbox.messages), len(OLD))
        with failing(os, "stat", PermissionError(errno.EACCES, "denied")):
            self.assertRaises(PermissionError, appending.has_journal, -1, b"ann")
