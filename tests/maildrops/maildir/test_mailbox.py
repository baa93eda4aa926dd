"""popserv.maildrops.maildir.mailbox: messages are sent as announced, or refused."""

import errno
import gzip
import os
import shutil
from unittest import mock

from zope.interface.verify import verifyObject

from popserv.core.snapshot import Message
from popserv.errors import (
    MaildropBusy,
    MaildropUnavailable,
    NoSuchMessage,
    RemovalFailed,
    TryLater,
)
from popserv.interfaces import ICachedMessages, ISizeCache
from popserv.maildrops.maildir import mailbox as module
from popserv.maildrops.maildir.store import MaildirMaildrops
from tests.maildrops.maildir.harness import (
    SPECIAL_FILES,
    IndexedCase,
    MaildirCase,
    SizeFileCase,
    before_each_call,
    failing,
    read_message,
    result,
    run_inline,
    wait_for_clock_tick,
)


class MailboxTests(MaildirCase):
    """An open Maildir."""

    def test_idle(self):
        """An idle session has one open file, with an index in the cache or without."""
        self.put(b"cur/1.x", b"x\n")
        for _ in range(2):
            before = len(os.listdir("/dev/fd"))
            with self.session() as mailbox:
                self.assertEqual(len(os.listdir("/dev/fd")), before + 1)
                self.assertEqual(read_message(mailbox, 0), b"x\n")

    def test_interface(self):
        """It keeps sizes, can discard them, and reads messages from the page cache."""
        with self.session() as mailbox:
            self.assertTrue(verifyObject(ISizeCache, mailbox))
            self.assertTrue(verifyObject(ICachedMessages, mailbox))

    def test_read_cached(self):
        """The start of a message is read without waiting, if it is a file at its location."""
        real = os.preadv
        self.put(b"cur/1.a", b"12345\n")
        self.put(b"cur/2.b", gzip.compress(b"12345\n"))
        self.put(b"cur/3.c", b"x\n")
        # Not every file system supports RWF_NOWAIT.
        with (
            mock.patch.object(os, "preadv", lambda fd, to, at, _flags: real(fd, to, at)),
            self.session() as mailbox,
        ):
            first, second, third = mailbox.messages
            for maximum, text in ((4, b"1234"), (6, b"12345\n"), (7, b"12345\n")):
                self.assertEqual(mailbox.read_cached(first, maximum), text)
            self.assertEqual(mailbox.read_cached(second, 100), None)
            self.move(b"cur/3.c", b"cur/3.c:2,S")
            self.assertEqual(mailbox.read_cached(third, 100), None)
            self.assertEqual(read_message(mailbox, 2), b"x\n")
            self.assertEqual(mailbox.read_cached(third, 100), b"x\n")
            with failing(os, "preadv", BlockingIOError()):
                self.assertEqual(mailbox.read_cached(first, 100), None)
            os.unlink(self.path_of(b"cur/3.c:2,S"))
            with self.assertRaises(NoSuchMessage):
                read_message(mailbox, 2)
            self.assertEqual(mailbox.read_cached(third, 100), None)

    def test_read_cached_special_file(self):
        """Nothing but a regular file is read."""
        for make in SPECIAL_FILES.values():
            self.put(b"cur/1.a", b"x\n")
            with self.session() as mailbox:
                os.unlink(self.path_of(b"cur/1.a"))
                make(self.path_of(b"cur/1.a"))
                self.assertEqual(mailbox.read_cached(mailbox.messages[0], 100), None)
            shutil.rmtree(self.path_of(b"cur"))
            os.mkdir(self.path_of(b"cur"))

    def test_permission_lost(self):
        """A message that may no longer be read is not reported as vanished."""
        self.put(b"new/1.a")
        denied = PermissionError(errno.EACCES, "denied")
        with (
            self.session() as mailbox,
            failing(os, "open", denied),
            self.assertRaises(MaildropUnavailable) as refused,
        ):
            read_message(mailbox, 0)
        cause = refused.exception.__cause__
        self.assertIs(cause.__cause__, denied)
        self.assertIn(f"{self.root}/ann/new/1.a cannot be read by user ", str(cause))

    def test_message_changed(self):
        """In a session, a changed message is refused unless its octets are the same."""
        self.put(b"new/1.a", b"short\n")
        self.put(b"new/2.b", b"same\n")
        for change in (b"longer than before\n", b"shorter?\n"):
            with self.session() as mailbox:
                self.put(b"new/1.a", change)
                self.put(b"new/2.b", b"SAME\n")
                for _ in range(2):
                    with self.assertRaises(TryLater) as refused:
                        read_message(mailbox, 0)
                    self.assertIn("has changed", str(refused.exception))
                self.assertEqual(read_message(mailbox, 1), b"SAME\n")
            self.assertEqual(self.read_in_session(), [change, b"SAME\n"])


class EmptyMailboxTests(MaildirCase):
    """A user without a Maildir has an empty mailbox."""

    def test_empty(self):
        """A user to whom nothing was ever delivered has an empty mailbox."""
        with self.session(b"bob") as mailbox:
            self.assertEqual(len(mailbox.messages), 0)
            with self.assertRaises(NoSuchMessage):
                result(mailbox.open(Message(1, b"x", 0)))
            result(mailbox.remove([]))

    def test_one_session(self):
        """A user without a Maildir has one session at a time, too."""
        with self.session(b"nobody"):
            self.assert_refused(MaildropBusy, b"nobody")
        with self.session(b"nobody") as mailbox:
            self.assertEqual(len(mailbox.messages), 0)
            with self.assertRaises(NoSuchMessage):
                result(mailbox.open(Message(1, b"x", 0)))
            result(mailbox.remove([]))


class ChangedMessageTests(IndexedCase):
    """A message whose octets have changed is refused, and counted again at the next login."""

    def test_rewritten(self):
        """A message rewritten in place is refused once, and right from then on."""
        wait_for_clock_tick()
        self.scans()
        self.put(b"new/1.a", b"rewritten\n")
        with self.session() as mailbox, self.assertRaises(TryLater):
            read_message(mailbox, 0)
        self.assertEqual(self.read_in_session(), [b"rewritten\n", b"second\n"])


class SizeFileTests(SizeFileCase):
    """A size file that was wrong is removed, and one is written under the lock."""

    def test_replaced(self):
        """A message replaced since the file was written is refused once, and right from then on."""
        for restarts in (False, True):
            self.listing()
            self.put(self.names[1], b"replaced" * (9 + restarts))
            self.restart()
            with self.session() as mailbox, self.assertRaises(TryLater):
                read_message(mailbox, 0)
            self.assertFalse(os.path.exists(self.file))
            if restarts:
                self.restart()
            self.assertEqual(self.read_in_session()[0], b"replaced" * (9 + restarts))
            self.assert_size_file_right()

    def test_cannot_be_removed(self):
        """A wrong size file that cannot be removed is no longer read."""
        self.listing()
        self.put(self.names[1], b"replaced\n")
        self.restart()
        denied = OSError(errno.EROFS, "read-only")
        self.maildrops = MaildirMaildrops(self.root, cache_messages=0, run=run_inline)
        with failing(os, "unlink", denied), failing(os, "rename", denied):
            with self.session() as mailbox, self.assertRaises(TryLater):
                read_message(mailbox, 0)
            for _ in range(2):
                self.assertEqual(self.read_in_session()[0], b"replaced\n")

    def test_same_octets(self):
        """A message replaced by one of the same octets is sent."""
        self.listing()
        self.put(self.names[1], b"new/1600000001.A\n")
        os.utime(self.path_of(self.names[1]), ns=(0, 0))
        self.restart()
        with self.session() as mailbox:
            self.assertEqual(read_message(mailbox, 0), b"new/1600000001.A\n")
        self.assert_size_file_right()

    def test_counted_once(self):
        """A message whose file was replaced in a session is counted again once."""
        self.put(b"tmp/1", b"new/1600000001.A\n")
        with self.session() as mailbox:
            os.replace(self.path_of(b"tmp/1"), self.path_of(self.names[1]))
            with mock.patch.object(module, "count_file", wraps=module.count_file) as counted:
                for _ in range(2):
                    self.assertEqual(read_message(mailbox, 0), b"new/1600000001.A\n")
        self.assertEqual(counted.call_count, 1)

    def test_changed_in_session(self):
        """A session in which a message was refused writes no size file."""
        with self.session() as mailbox:
            self.put(self.names[1], b"replaced\n")
            with self.assertRaises(TryLater):
                read_message(mailbox, 0)
        self.assertFalse(os.path.exists(self.file))

    def test_trusted_again(self):
        """After a wrong size file was removed, the next one is read."""
        self.listing()
        self.put(self.names[1], b"replaced\n")
        self.maildrops = MaildirMaildrops(self.root, cache_messages=0, run=run_inline)
        with self.session() as mailbox, self.assertRaises(TryLater):
            read_message(mailbox, 0)
        self.listing()
        self.assertEqual(self.files_read_at_logins(b"ann"), [])

    def test_read_only(self):
        """In a read-only Maildir a wrong size file stays, and is not read again."""
        self.listing()
        self.put(self.names[1], b"replaced\n")
        self.restart()
        maildrops = self.maildrops.variant(trash="", path=b"", read_only=True)
        with self.session(maildrops=maildrops) as mailbox, self.assertRaises(TryLater):
            read_message(mailbox, 0)
        self.assertTrue(os.path.exists(self.file))
        with self.session(maildrops=maildrops) as mailbox:
            self.assertEqual(read_message(mailbox, 0), b"replaced\n")

    def test_removed(self):
        """Messages that were removed are no reason to write a size file, others are."""
        with self.session() as mailbox:
            result(mailbox.remove(mailbox.messages[:2]))
        self.assertFalse(os.path.exists(self.file))
        for name in self.names:
            self.put(name, name + b"\n")
        self.restart()
        with self.session() as mailbox, failing(os, "unlink", OSError(errno.EACCES, "denied")):
            self.assertRaises(RemovalFailed, result, mailbox.remove(mailbox.messages[:2]))
        self.assertTrue(os.path.exists(self.file))

    def test_busy(self):
        """If no thread is free at the end of a session, the size file is not written."""

        async def run(function, *args):
            if function.__name__ == "save":
                raise TryLater
            return function(*args)

        self.maildrops = MaildirMaildrops(self.root, run=run)
        self.listing()
        self.assertFalse(os.path.exists(self.file))
        self.maildrops.run = run_inline
        self.listing()
        self.assertTrue(os.path.exists(self.file))

    def test_under_lock(self):
        """The size file is written before the lock is released."""
        busy = []
        other = MaildirMaildrops(self.root, run=run_inline)

        def attempt(_):
            with self.assertRaises(MaildropBusy):
                result(other.open_maildrop(b"ann"))
            busy.append(True)

        with before_each_call(os, "rename", attempt):
            self.listing()
        self.assertEqual(busy, [True])
