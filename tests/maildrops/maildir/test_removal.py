"""popserv.maildrops.maildir.removal: +OK to QUIT means removed (RFC 1725 section 6)."""

import contextlib
import errno
import os
import shutil
import time
from unittest import mock

from popserv.errors import NoSuchMessage, RemovalFailed, TryLater
from popserv.maildrops.file_times import CLOCK_TICK
from popserv.maildrops.maildir import files, folders, removal
from popserv.maildrops.maildir.listing import counting, index
from popserv.maildrops.maildir.store import MaildirMaildrops
from tests.maildrops.maildir.harness import (
    RENAMES,
    MaildirCase,
    before_each_call,
    failing,
    read_message,
    result,
    run_inline,
)


def raising(error):
    """Return a function that raises an error."""
    return mock.Mock(side_effect=error)


class RenameTests(MaildirCase):
    """A message that another program renames is removed all the same."""

    def test_before(self):
        """A message renamed since the login is removed (RFC 1725 section 6)."""
        for old, new in RENAMES:
            self.put(old)
            with self.session() as mailbox:
                self.move(old, new)
                result(mailbox.remove(mailbox.messages))
            self.assertEqual(self.file_names(), [], new)
            with self.session() as mailbox:
                self.assertEqual(len(mailbox.messages), 0)

    def test_changed_in_place(self):
        """A message whose file has changed is removed, unless it was renamed as well."""
        for new, left in ((b"new/1.a", 0), (b"cur/1.a:2,S", 1)):
            self.put(b"new/1.a")
            with self.session() as mailbox:
                self.put(b"new/1.a", b"changed\n")
                self.move(b"new/1.a", new)
                with contextlib.suppress(RemovalFailed):
                    result(mailbox.remove(mailbox.messages))
            self.assertEqual(len(self.file_names()), left)
        with self.session() as mailbox:
            result(mailbox.remove(mailbox.messages))
        self.assertEqual(self.file_names(), [])

    def test_during(self):
        """A message renamed just before its removal is removed."""
        for name in (b"1.a:2,", b"2.b:2,", b"3.c:2,"):
            self.put(b"cur/" + name)
        untouched = {b"1.a:2,", b"2.b:2,", b"3.c:2,"}

        def change_flags_once(name):
            if name in untouched:
                untouched.remove(name)
                self.change_flags(name)

        with self.session() as mailbox, before_each_call(os, "unlink", change_flags_once):
            result(mailbox.remove(mailbox.messages))
        self.assertEqual((self.file_names(), untouched), ([], set()))

    def test_without_end(self):
        """If other programs keep renaming messages, the removal fails and says so."""
        self.put(b"cur/1.a:2,")
        self.put(b"cur/2.b:2,")
        with self.session() as mailbox:
            with (
                before_each_call(os, "unlink", self.change_flags),
                mock.patch.object(time, "sleep") as sleep,
                self.assertRaises(RemovalFailed) as failed,
            ):
                result(mailbox.remove(mailbox.messages))
            self.assertEqual(failed.exception.remaining, 2)
            # The client waits meanwhile.
            self.assertLess(sum(call.args[0] for call in sleep.mock_calls), 1)
            self.assertIn("/ann: messages are never where", str(failed.exception.__cause__))
        self.assertEqual(len(self.file_names()), 2)


class RemovalTests(MaildirCase):
    """A message counts as removed only if it is certainly gone."""

    def setUp(self):
        """Deliver three messages."""
        super().setUp()
        self.names = [b"cur/2.b:2,", b"new/1.a", b"new/3.c"]
        for name in self.names:
            self.put(name)

    def test_partial(self):
        """Messages that cannot be removed are counted, and all others are removed."""
        for code in (errno.EACCES, errno.EPERM, errno.EROFS):
            for name in self.names:
                self.put(name)
            denied = OSError(code, "denied")
            with self.session() as mailbox:
                with (
                    failing(os, "unlink", denied, lambda name: name == b"2.b:2,"),
                    self.assertRaises(RemovalFailed) as failed,
                ):
                    result(mailbox.remove(mailbox.messages))
                self.assertEqual(failed.exception.remaining, 1)
                path = f"{self.root}/ann/cur/2.b:2,: denied"
                self.assertIn(path, str(failed.exception.__cause__))
            self.assertEqual(self.file_names(), [b"cur/2.b:2,"])

    def test_folder_not_opened(self):
        """If a folder cannot be opened, its messages remain, and the others are removed."""
        error = OSError(errno.EMFILE, "too many")
        for _ in ("both folders", "one folder"):
            with self.session() as mailbox:
                with (
                    failing(os, "open", error, lambda name, *_: name == b"cur"),
                    self.assertRaises(RemovalFailed) as failed,
                ):
                    result(mailbox.remove(mailbox.messages))
                self.assertEqual(failed.exception.remaining, 1)
                self.assertEqual(str(failed.exception.__cause__), f"{self.root}/ann/cur: too many")
            self.assertEqual(self.file_names(), [b"cur/2.b:2,"])

    def test_scan_fails(self):
        """If a renamed message cannot be searched for, it counts as remaining."""
        with self.session() as mailbox:
            self.move(b"cur/2.b:2,", b"cur/2.b:2,S")
            with (
                failing(os, "scandir", OSError(errno.EMFILE, "too many")),
                mock.patch.object(time, "sleep") as sleep,
                self.assertRaises(RemovalFailed) as failed,
            ):
                result(mailbox.remove(mailbox.messages))
            self.assertEqual(failed.exception.remaining, 1)
            self.assertIn("too many", str(failed.exception.__cause__))
            self.assertEqual(len(sleep.mock_calls), 1)
        self.assertEqual(self.file_names(), [b"cur/2.b:2,S"])

    def removing(self, names):
        """Remove all messages; return the inodes of the folders that were synced, with the files.

        Before, all but some files are removed.  No message is removed by a call of its own.
        """
        for name in {*self.file_names()} - {*names}:
            os.unlink(self.path_of(name))
        synced = []

        def fsync(fd):
            synced.append((os.fstat(fd).st_ino, self.file_names()))

        with (
            self.session() as mailbox,
            mock.patch.object(os, "fsync", fsync),
            failing(files.MessageFiles, "remove", AssertionError("one by one")),
        ):
            result(mailbox.remove(mailbox.messages))
        self.assertEqual(self.file_names(), [])
        return synced

    def inode_of(self, folder):
        """Return the inode of a folder."""
        return os.stat(self.path_of(folder)).st_ino

    def test_durable(self):
        """Each folder is synced after its messages are removed."""
        new, cur = map(self.inode_of, (b"new", b"cur"))
        synced = self.removing(self.file_names())
        self.assertEqual(synced, [(new, [b"cur/2.b:2,"]), (cur, [])])

    def test_durable_folder(self):
        """A folder is synced if all messages are in it."""
        self.assertEqual(self.removing([b"cur/2.b:2,"]), [(self.inode_of(b"cur"), [])])

    def test_durable_with_quota(self):
        """With a quota file, folders are synced in which nothing was opened before."""
        for names in ([b"cur/2.b:2,"], [b"cur/2.b:2,", b"new/1.a"]):
            for name in names:
                self.put(name, b"x\n")
            self.put(b"maildirsize", b"1000S\n4 2\n")
            synced = self.removing(names)
            folders = sorted({name[:3] for name in names}, reverse=True)
            self.assertEqual(synced, [(self.inode_of(each), []) for each in folders])
            with open(self.path_of(b"maildirsize"), "rb") as file:
                self.assertEqual(len(file.read().splitlines()), 3)

    def test_quota_meanwhile(self):
        """A quota file that appears while messages are removed gets a line, and all is synced."""
        self.put(b"maildirsize", b"1000S\n4 2\n")
        answers = [False, True]
        with mock.patch.object(files, "may_be_recorded", lambda fd: answers.pop(0)):
            synced = self.removing([b"new/1.a"])
        self.assertEqual(synced, [(self.inode_of(b"new"), [])])
        self.assertEqual(answers, [])
        with open(self.path_of(b"maildirsize"), "rb") as file:
            self.assertEqual(len(file.read().splitlines()), 3)

    def test_too_busy(self):
        """If no thread can do the rest, it remains; if nothing is done, that is told."""
        with self.session() as mailbox:
            mailbox._run = raising(TryLater())
            self.assertRaises(TryLater, result, mailbox.remove(mailbox.messages))
            mailbox._run = run_inline
        self.assertEqual(self.file_names(), self.names)
        self.assertIsInstance(self.cut_off(TryLater()), TryLater)

    def test_no_permission(self):
        """If no thread can have the permissions of the user, the messages remain."""
        with self.session() as mailbox:
            mailbox._run = raising(OSError(errno.EPERM, "not permitted"))
            with self.assertRaises(RemovalFailed) as failed:
                result(mailbox.remove(mailbox.messages))
            mailbox._run = run_inline
        self.assertEqual(failed.exception.remaining, 3)
        self.assertEqual(self.file_names(), self.names)
        cause = self.cut_off(OSError(errno.EPERM, "not permitted"))
        self.assertIn(f"{self.root}/ann: not permitted", str(cause))

    def cut_off(self, error):
        """Let only the first of two steps of removals succeed; return the cause of the failure."""
        quota_file_appears = mock.patch.object(files, "may_be_recorded", side_effect=[False, True])
        for name in self.names:
            os.unlink(self.path_of(name))
        for meanwhile, left in (
            (quota_file_appears, []),
            (contextlib.nullcontext(), [b"cur/5.e"]),
        ):
            for name in (b"new/4.d", b"new/5.e") if left else (b"new/6.f", b"new/7.g"):
                self.put(name)
            with self.session() as mailbox, mock.patch.object(os, "fsync") as fsync:
                if left:
                    self.move(b"new/5.e", b"cur/5.e")
                steps = iter([run_inline, raising(error)])
                mailbox._run = lambda *args, steps=steps: next(steps)(*args)
                with meanwhile, self.assertRaises(RemovalFailed) as failed:
                    result(mailbox.remove(mailbox.messages))
                mailbox._run = run_inline
            self.assertEqual(failed.exception.remaining, 1)
            self.assertEqual(self.file_names(), left)
            self.assertEqual(len(fsync.mock_calls), 1)
        return failed.exception.__cause__

    def test_many(self):
        """Very many messages are removed in a thread that also prepares it."""
        with mock.patch.object(files, "MAX_AT_ONCE", 1), self.session() as mailbox:
            for messages, at_once in ((mailbox.messages[1:], False), (mailbox.messages[:1], True)):
                positions = [message.position for message in messages]
                done = mailbox._files.unlink_at_once(positions, [], run_inline)
                self.assertIs(result(done), at_once)
                result(mailbox.remove(messages))
        self.assertEqual(self.file_names(), [])

    def test_with_and_without_flags(self):
        """Messages of a folder are removed by one call, whatever their names end with."""
        self.put(b"cur/4.d")
        with self.session() as mailbox:
            positions = [1, 3]
            names = [mailbox._files.locate(at)[0] for at in positions]
            self.assertEqual(names, [b"2.b:2,", b"4.d"])
            self.assertTrue(result(mailbox._files.unlink_at_once(positions, [], run_inline)))
        self.assertEqual(self.file_names(), [b"new/1.a", b"new/3.c"])

    def test_durable_renamed(self):
        """If a message was renamed, the folders are synced and the quota changed after all."""
        synced = []

        def fsync(fd):
            synced.append((os.fstat(fd).st_ino, self.file_names()))

        self.put(b"maildirsize", b"1000S\n6 3\n")
        with self.session() as mailbox, mock.patch.object(time, "sleep") as sleep:
            self.move(b"cur/2.b:2,", b"cur/2.b:2,S")
            with mock.patch.object(os, "fsync", fsync):
                result(mailbox.remove(mailbox.messages))
        folders = {os.stat(self.path_of(folder)).st_ino for folder in (b"new", b"cur")}
        self.assertEqual({inode for inode, names in synced if not names}, folders)
        with open(self.path_of(b"maildirsize"), "rb") as file:
            lines = file.read().splitlines()[1:]
        counts = [sum(int(line.split()[column]) for line in lines) for column in (0, 1)]
        self.assertEqual(counts, [0, 0])
        self.assertEqual(sleep.mock_calls, [mock.call(0.0)])

    def test_not_durable(self):
        """If the folders cannot be synced, the removal fails."""
        for names in (self.names, [b"new/4.d"]):
            for name in self.file_names():
                os.unlink(self.path_of(name))
            for name in names:
                self.put(name)
            with (
                self.session() as mailbox,
                failing(os, "fsync", OSError(errno.EIO, "broken")),
                self.assertRaises(RemovalFailed) as failed,
            ):
                result(mailbox.remove(mailbox.messages))
            self.assertEqual(failed.exception.remaining, len(names))
            self.assertEqual(str(failed.exception.__cause__), f"{self.root}/ann: broken")

    def test_folder_made_later(self):
        """A message is found in a folder that was made during the session."""
        shutil.rmtree(self.path_of(b"cur"))
        with self.session() as mailbox:
            os.mkdir(self.path_of(b"cur"))
            self.move(b"new/1.a", b"cur/1.a:2,S")
            read_message(mailbox, 0)
            result(mailbox.remove(mailbox.messages))
        self.assertEqual(self.file_names(), [])

    def test_folders_keep_changing(self):
        """While folders keep changing, a message that is not found counts as remaining."""
        with self.session() as mailbox:
            os.rename(self.path_of(b"cur/2.b:2,"), self.path_of(b"tmp/2.b"))
            with (
                mock.patch.object(folders, "times_of", lambda *_: (0, next(self.ticks))),
                mock.patch.object(removal, "RETRY_DELAYS", (0, 0)),
                self.assertRaises(RemovalFailed) as failed,
            ):
                result(mailbox.remove(mailbox.messages))
            self.assertEqual(failed.exception.remaining, 1)

    def test_within_clock_tick(self):
        """A message not found by a scan within the clock tick of a change counts as remaining."""
        changed = time.time_ns()
        for scanned, expected in ((CLOCK_TICK, [1]), (CLOCK_TICK + 1, [])):
            for name in self.names:
                self.put(name)
            remaining = []
            with self.session() as mailbox:
                os.rename(self.path_of(b"cur/2.b:2,"), self.path_of(b"tmp/2.b"))
                with (
                    mock.patch.object(folders, "times_of", return_value=(0, changed)),
                    mock.patch.object(time, "clock_gettime_ns", return_value=changed + scanned),
                    mock.patch.object(removal, "RETRY_DELAYS", (0, 0)),
                ):
                    try:
                        result(mailbox.remove(mailbox.messages))
                    except RemovalFailed as error:
                        remaining.append(error.remaining)
            self.assertEqual(remaining, expected)

    def test_duplicates(self):
        """A file that was not shown is not removed, though it has the base name of one that was."""
        self.put(b"cur/5.dup:2,S", b"shown\n")
        with self.session() as mailbox:
            self.put(b"new/5.dup", b"never seen\n")
            os.unlink(self.path_of(b"cur/5.dup:2,S"))
            with self.assertRaises(RemovalFailed):
                result(mailbox.remove(mailbox.messages))
        self.assertEqual(self.file_names(), [b"new/5.dup"])

    def test_came_back(self):
        """A message that vanished and came back is removed."""
        with self.session() as mailbox:
            self.move(b"new/1.a", b"tmp/1.a")
            with self.assertRaises(NoSuchMessage):
                read_message(mailbox, 0)
            self.move(b"tmp/1.a", b"cur/1.a:2,")
            result(mailbox.remove(mailbox.messages))
        self.assertEqual(self.file_names(), [])

    def test_read_only(self):
        """A read-only Maildir can be read, with its duplicates, and its messages remain."""
        self.names.insert(0, b"cur/1.a:2,S")
        self.put(self.names[0])
        closed = [self.path_of(folder) for folder in (b"new", b"cur", b"")]
        for path in [*map(self.path_of, self.names), *closed]:
            self.addCleanup(os.chmod, path, 0o700)
            os.chmod(path, 0o555 if path in closed else 0o444)
        self.patch(index, "SAVE_THRESHOLD", 1)
        with self.without_privileges(), mock.patch.object(counting, "_log") as log:
            self.assertEqual(self.read_in_session(), [b"x\n"] * 4)
            self.maildrops = MaildirMaildrops(self.root, run=run_inline)
            self.assertEqual(self.read_in_session(), [b"x\n"] * 4)
            self.assertEqual(log.mock_calls, [])
            with self.session() as mailbox, self.assertRaises(RemovalFailed) as failed:
                result(mailbox.remove(mailbox.messages))
        self.assertEqual(failed.exception.remaining, 4)
        self.assertEqual(self.file_names(), self.names)
        self.assertEqual(sorted(os.listdir(self.path_of(b""))), [b"cur", b"new", b"tmp"])
