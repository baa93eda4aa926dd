"""popserv.maildrops.mbox.store: what every store must do, and who may open a file."""

import errno
import fcntl
import os
import stat
from unittest import mock

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from popserv.errors import MaildropBusy, MaildropUnavailable, TryLater
from popserv.maildrops.mbox import MboxMaildrops, store
from popserv.maildrops.mbox.locks import FileLock
from popserv.testing import SAMPLE_MESSAGES, MailboxContract, contract
from tests.maildrops.maildir.harness import SPECIAL_FILES, failing, result, run_inline
from tests.maildrops.mbox.harness import INTERNAL_DATA, OLD, MboxCase, mbox_of, stored, wait_not
from tests.maildrops.model import BODIES, ModelMixin


class MboxContract(MailboxContract):
    """The contract of all stores."""

    def setUp(self):
        """Use samples that an mbox file can contain: each line has a line end."""
        self.deliveries = self.changes = 0
        samples = [each + b"\n" if each[-1:] not in b"\n" else each for each in SAMPLE_MESSAGES]
        self.patch(contract, "SAMPLE_MESSAGES", samples)

    def make_factory(self, messages):
        """Write a file for each user."""
        self.root = os.path.abspath(self.mktemp())
        os.makedirs(self.root)
        for user, each in messages.items():
            with open(self.path(user), "wb") as file:
                file.write(mbox_of(each))
            self.age(user)
            self.deliveries += len(each)
        return self.another_factory(None)

    def path(self, user):
        """Return the path of a user's file."""
        return os.path.join(self.root, user.decode())

    def another_factory(self, _factory):
        """Return another factory of the files."""
        return MboxMaildrops(self.root, run=run_inline, wait=wait_not)

    def deliver(self, _factory, user, message):
        """Append to the file, at another time than every other delivery."""
        with open(self.path(user), "ab") as file:
            file.write(stored(message, self.deliveries))
        self.age(user)
        self.deliveries += 1

    def remove_externally(self, factory, user, index):
        """Rewrite the file, as a mail program does."""
        with open(self.path(user), "rb+") as file:
            parts = file.read().split(b"From ann@")
            del parts[index + 1]
            file.seek(0)
            file.write(b"From ann@".join(parts))
            file.truncate()
        self.age(user)
        return True

    def age(self, user):
        """Give the file a time of modification that it never had, long ago."""
        self.changes += 1
        os.utime(self.path(user), ns=(OLD, OLD + self.changes))

    def failing_open(self, _factory, _user):
        """Fail to read."""
        return failing(os, "pread", OSError(errno.EIO, "I/O error"))

    def failing_removal(self, _factory, _user):
        """Fail to write, on a full disk."""
        return failing(os, "pwrite", OSError(errno.ENOSPC, "no space"))

    async def test_retrieved(self):
        """Retrieval is recorded in Status, which is part of the message."""
        factory, mailbox = await self._open([b"1\n", b"2\n", b"3\n"])
        await mailbox.record_retrieved(mailbox.messages[:2])
        await mailbox.release()
        mailbox = await factory.open_maildrop(b"ann")
        self.assertEqual(await mailbox.last_retrieved(), mailbox.messages[1])
        await mailbox.remove(mailbox.messages[:1])
        await mailbox.release()
        mailbox = await factory.open_maildrop(b"ann")
        self.assertEqual(await mailbox.last_retrieved(), mailbox.messages[0])
        self.assertEqual(await self._read_messages(mailbox), [b"2\nStatus: RO\n", b"3\n"])
        await mailbox.release()


class ContractTests(ModelMixin, MboxContract, TestCase):
    """The contract holds, and so does the model of all stores."""

    # An mbox file can contain messages whose lines have line ends.
    bodies = tuple(each + b"\n" if each[-1:] not in b"\n" else each for each in BODIES)

    def disturb(self, _factory, user, number):
        """Rewrite the file in place, with or without Dovecot's data message at its start."""
        with open(self.path(user), "rb+") as file:
            octets = file.read().removeprefix(INTERNAL_DATA)
            file.seek(0)
            file.write(INTERNAL_DATA * (number % 2) + octets)
            file.truncate()
        self.age(user)


class StoreTests(MboxCase):
    """Which files are opened, and what a client is told of the others."""

    def refused(self, error, user=b"ann"):
        """Check that opening is refused; return the text of the cause."""
        with self.assertRaises(error) as refused:
            result(self.maildrops.open_maildrop(user))
        return str(refused.exception.__cause__)

    def test_special_files(self):
        """What is not a regular file is refused, and the log says what is there."""
        for make in SPECIAL_FILES.values():
            make(self.path)
            if os.path.islink(self.path):
                os.lchown(self.path, 12345, 12345)
            self.assertIn(self.path, self.refused(MaildropUnavailable))
            (os.rmdir if os.path.isdir(self.path) and not os.path.islink(self.path) else os.unlink)(
                self.path
            )

    def test_directory(self):
        """The log says that a directory may be a Maildir."""
        os.mkdir(self.path)
        self.assertIn("a Maildir perhaps", self.refused(MaildropUnavailable))

    def test_administrators_link(self):
        """A link of the administrator is followed."""
        with open(os.path.join(self.root, "elsewhere"), "wb") as file:
            file.write(mbox_of([b"x\n"]))
        os.symlink("elsewhere", self.path)
        self.assertEqual(self.read_all(), [b"x\n"])

    def test_hard_link(self):
        """A file with two names is refused: it may be the mail of another user."""
        self.write(mbox_of([b"x\n"]))
        os.link(self.path, os.path.join(self.root, "bob"))
        self.assertIn("has more than one name", self.refused(MaildropUnavailable))

    def test_not_an_mbox(self):
        """A file that does not start with a From_ line is refused, and stays."""
        for contents in (b"root:x:0:0\n", b"From the start\n\n", b"\0" * 100):
            self.write(contents)
            self.assertIn("does not start with a From_ line", self.refused(MaildropUnavailable))
            self.assertEqual(self.contents(), contents)

    def test_empty(self):
        """An empty file has no messages, and neither has one of blank lines."""
        for contents in (b"", b"\n", b"\r\n\n"):
            self.write(contents)
            self.assertEqual(self.read_all(), [])

    def test_no_file(self):
        """A user without a file has an empty maildrop, for one session at a time."""
        with self.session() as mailbox:
            self.assertEqual(len(mailbox.messages), 0)
            self.refused(MaildropBusy)
            with self.session(b"bob"):
                pass
        self.assertEqual(self.read_all(), [])
        self.assertEqual(os.listdir(self.root), [])

    def test_bad_name(self):
        """A name that leads out of the directory is refused."""
        self.refused(MaildropUnavailable, b"../ann")

    def test_missing_root(self):
        """A missing directory is no empty maildrop."""
        self.maildrops = MboxMaildrops(self.root + "/none/%u", run=run_inline, wait=wait_not)
        self.assertIn("does not exist", self.refused(MaildropUnavailable))

    def test_transient(self):
        """An error that may not recur is a temporary failure."""
        self.write(mbox_of([b"x\n"]))
        for owner, name in ((os, "open"), (os, "pread"), (fcntl, "flock")):
            with failing(owner, name, OSError(errno.ENOMEM, "no memory")):
                self.assertEqual(self.refused(TryLater), f"{self.path}: no memory")

    def test_not_created(self):
        """If a file cannot be created for a delivery, the log has its path."""
        error = OSError(errno.ENOSPC, "full")
        with (
            failing(os, "open", error, lambda name, *_, **__: name == b"ann"),
            self.assertRaises(MaildropUnavailable) as refused,
        ):
            result(self.maildrops.open_delivery(b"ann"))
        self.assertEqual(str(refused.exception.__cause__), f"{self.path}: full")

    def test_read_only(self):
        """A file that may not be written is opened for reading."""
        self.write(mbox_of([b"x\n"]))
        denied = PermissionError(errno.EACCES, "denied")
        with failing(os, "open", denied, lambda _, flags, *rest: flags & os.O_RDWR):
            self.assertEqual(self.read_all(), [b"x\n"])

    def test_no_permission(self):
        """A file that may not be read is refused."""
        self.write(mbox_of([b"x\n"]))
        denied = PermissionError(errno.EACCES, "denied")
        with failing(os, "open", denied, lambda name, *rest: name == b"ann"):
            cause = self.refused(MaildropUnavailable)
        self.assertIn(f"{self.path} cannot be read by user", cause)
        self.assertIn("and has mode 0", cause)

    def test_replaced(self):
        """A file that is replaced while it is opened is opened again, but not for ever."""
        self.write(mbox_of([b"x\n"]))
        real = fcntl.flock
        for times, is_busy in ((1, False), (99, True)):
            left = iter(range(times))

            def flock(fd, how, left=left):
                if next(left, None) is not None:
                    os.rename(self.path, self.path + ".old")
                    self.write(mbox_of([b"y\n"]))
                real(fd, how)

            with mock.patch.object(fcntl, "flock", flock):
                if is_busy:
                    self.refused(MaildropBusy)
                else:
                    self.assertEqual(self.read_all(), [b"y\n"])

    def test_removed_while_opened(self):
        """A file that is removed while it is opened leaves an empty maildrop."""
        self.write(mbox_of([b"x\n"]))
        real = fcntl.flock

        def flock(fd, how):
            if os.path.exists(self.path):
                os.unlink(self.path)
            real(fd, how)

        with mock.patch.object(fcntl, "flock", flock):
            self.assertEqual(self.read_all(), [])

    def test_locked(self):
        """A file that another program keeps locked is busy, after some attempts."""
        self.write(mbox_of([b"x\n"]))
        with open(self.path, "rb+") as file:
            fd = os.open(self.root, os.O_RDONLY)
            self.addCleanup(os.close, fd)
            lock = FileLock(file.fileno(), fd, b"ann")
            lock.acquire()
            self.refused(MaildropBusy)
            lock.release()
            self.assertEqual(self.read_all(), [b"x\n"])

    def test_unlocked_during_session(self):
        """During a session other programs can lock the file."""
        self.write(mbox_of([b"x\n"]))
        with self.session(), open(self.path, "rb+") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.assertEqual(os.listdir(self.root), ["ann"])

    def test_nobody_reads(self):
        """Opening an unchanged file again reads nothing, and locks it for the session only."""
        self.write(mbox_of([b"x\n"]))
        self.assertEqual(self.read_all(), [b"x\n"])
        refuse = OSError(errno.EIO, "read")
        with failing(os, "pread", refuse), failing(fcntl, "fcntl", refuse), self.session() as box:
            self.assertEqual(len(box.messages), 1)

    def test_times_and_mode(self):
        """Reading changes neither the times nor the mode of the file, so that mail stays new."""
        self.write(mbox_of([b"x\n"]))
        os.utime(self.path, ns=(10**9, 2 * 10**9))
        os.chmod(self.path, 0o660)
        self.read_all()
        status = os.stat(self.path)
        self.assertEqual((status.st_atime_ns, status.st_mtime_ns), (10**9, 2 * 10**9))
        self.assertEqual(stat.S_IMODE(status.st_mode), 0o660)


class WaitTests(TestCase):
    """The default way to wait."""

    async def test_wait(self):
        """Waiting ends."""
        waited = store._wait(0)
        self.assertIsInstance(waited, Deferred)
        await waited
