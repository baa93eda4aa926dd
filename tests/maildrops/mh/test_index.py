"""Tests of popserv.maildrops.mh.index: which unique-id a message has."""

import errno
import os
import shutil
from hashlib import blake2b
from unittest.mock import patch

from twisted.internet.testing import EventLoggingObserver
from twisted.logger import formatEvent, globalLogPublisher

from popserv.errors import MaildropUnavailable, TryLater
from popserv.maildrops.mh import counting, folder, index_file
from popserv.maildrops.mh import index as module
from popserv.messages.details import NO_DETAILS, MessageDetails
from popserv.messages.downgrade.downgrader import Downgrader
from popserv.testing.delivery_contract import body_of
from tests.maildrops.maildir.harness import before_each_call, failing, result
from tests.maildrops.mh.harness import MHCase, deliver, numbers_in, pack


def unreadable(*numbers):
    """Return a context in which messages may not be read."""
    error = PermissionError(errno.EACCES, "Permission denied")
    names = [*map(str, numbers)]
    return failing(os, "open", error, lambda name, *_: os.fsdecode(name) in names)


class UniqueIdTests(MHCase):
    """The same unique-id for the same message, and never for another."""

    def both(self):
        """Return the unique-ids, which are the same after a restart."""
        uids = self.uids()
        self.restart()
        self.assertEqual(self.uids(), uids)
        return uids

    def test_versions(self):
        """It is the same in every version of popserv: made of the time and the octets."""
        deliver(self.path, b"1\n", 1)
        modified = os.stat(self.file(1)).st_mtime_ns
        octets = blake2b(b"1\n", digest_size=16).hexdigest()
        expected = blake2b(f"{modified} {octets}".encode(), digest_size=16).hexdigest()
        self.assertEqual(self.uids(), [expected.encode()])

    def test_renumbered(self):
        """Renumbering and reordering change no unique-id, with the index in memory or without."""
        self.deliver(b"1\n", b"2\n", b"3\n")
        _one, two, three = self.both()
        self.remove(0)
        pack(self.path)
        self.assertEqual(self.both(), [two, three])
        os.rename(self.file(1), self.file(9))
        self.assertEqual(self.both(), [three, two])

    def test_restored(self):
        """A restored copy, which has another inode and the same time, has the same unique-ids."""
        self.deliver(b"1\n", b"2\n")
        uids = self.both()
        copy = self.path + ".copy"
        shutil.copytree(self.path, copy)
        shutil.rmtree(self.path)
        shutil.move(copy, self.path)
        self.assertEqual(self.both(), uids)

    def test_delivered_again(self):
        """A message with the octets of one that was removed, and its inode, is another one."""
        self.deliver(b"1\n", b"2\n")
        one, two = self.both()
        # As if the file system had given the inode of a removed file to a new one.
        os.rename(self.file(1), self.file(3))
        os.utime(self.file(3), ns=(5, 5))
        same, new = self.both()
        self.assertEqual(same, two)
        self.assertNotEqual(new, one)

    def test_changed(self):
        """A message with other octets has another unique-id."""
        self.deliver(b"1\n", b"2\n")
        one, two = self.both()
        deliver(self.path, b"9\n", 1)
        new, same = self.both()
        self.assertEqual(same, two)
        self.assertNotEqual(new, one)

    def test_copies(self):
        """Copies with the same time, or links, have unique-ids of their own until they go."""
        for copy in (shutil.copy2, os.link):
            for at in range(3):
                self.deliver(b"1\n")
                copy(self.file(1), self.file(2))
                copy(self.file(1), self.file(3))
                uids = self.both()
                self.assertEqual(len(set(uids)), 3)
                self.remove(at)
                del uids[at]
                self.assertEqual(self.both(), uids)
                pack(self.path)
                self.assertEqual(self.both(), uids)
                self.remove(0, 1)

    def test_recent(self):
        """A file that was just written is read again, as it may change within a clock tick."""
        self.deliver(b"1\n")
        os.utime(self.file(1))
        status = os.stat(self.file(1))
        (one,) = self.both()
        with open(self.file(1), "r+b") as file:
            file.write(b"9")
        os.utime(self.file(1), ns=(status.st_atime_ns, status.st_mtime_ns))
        self.assertNotEqual(self.uids(), [one])
        self.assertEqual(self.read_all(), [b"9\n"])


class CountingTests(MHCase):
    """Which messages are read."""

    def files_read(self):
        """Return the names of the message files that a login opens."""
        names = []
        with before_each_call(os, "open", names.append), self.session():
            pass
        return [int(name) for name in names if isinstance(name, bytes) and name.isdigit()]

    def test_read_once(self):
        """Only new messages are read; after a restart the index file spares it for many."""
        self.patch(module, "SAVE_THRESHOLD", 2)
        self.deliver(b"1\n")
        self.assertEqual(self.files_read(), [1])
        self.assertEqual(self.files_read(), [])
        self.restart()
        self.assertEqual(self.files_read(), [1])
        self.deliver(b"2\n")
        self.assertEqual(self.files_read(), [2])
        self.restart()
        self.assertEqual(self.files_read(), [])
        self.maildrops = type(self.maildrops)(
            self.root, downgrader=Downgrader, run=self.maildrops.run
        )
        self.assertEqual(self.files_read(), [1, 2])

    def test_file_not_read(self):
        """Without the unique-ids that are in the index file, the folder is not opened."""
        delivery = result(self.maildrops.open_delivery(b"ann"))
        result(delivery.deliver(b"other", NO_DETAILS, body_of(b"1\n")))
        result(delivery.commit())
        result(delivery.release())
        self.restart()
        error = OSError(errno.EIO, "I/O error", index_file.NAME)
        with (
            patch.object(index_file, "load", side_effect=error),
            self.assertRaises(MaildropUnavailable) as refused,
        ):
            self.uids()
        path = self.file(".popserv-index")
        self.assertEqual(str(refused.exception.__cause__), f"{path}: I/O error")
        self.assertEqual(self.uids(), [b"other"])

    def test_unreadable(self):
        """A message without permission is left out and logged, and tried again."""
        self.deliver(b"1\n", b"2\n")
        self.patch(folder, "TRUSTED_AGE", -(10**12))
        observer = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)
        with unreadable(1), self.session() as mailbox:
            self.assertEqual(len(mailbox.messages), 1)
            self.assertIsNone(mailbox.index.times)
        [event] = observer
        self.assertIn(f"message skipped: {self.file(1)} cannot be read", formatEvent(event))
        with self.session() as mailbox:
            self.assertIsNotNone(mailbox.index.times)
        self.assertEqual(self.read_all(), [b"1\n", b"2\n"])

    def test_not_saved(self):
        """An index file that cannot be written is logged, and not written at each login."""
        self.patch(module, "SAVE_THRESHOLD", 1)
        self.deliver(b"1\n")
        observer = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)
        with patch.object(index_file, "save", side_effect=OSError(28, "full")) as save:
            self.uids()
            self.uids()
        save.assert_called_once()
        [event] = observer
        path = self.file(".popserv-index")
        self.assertEqual(formatEvent(event), f"index of an MH folder not written: {path}: full")


class LeftOutCase(MHCase):
    """A folder with messages that were copied to it, of which some are not found for a while."""

    uids_given = (b"a", b"b", b"c")

    def setUp(self):
        """Copy the messages; a scan is settled unless the test says otherwise."""
        super().setUp()
        self.patch(folder, "CLOCK_TICK", -(10**12))
        self.waited = []
        self.patch(module.time, "sleep", self.waited.append)
        self.copy_to()
        self.observer = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)

    def copy_to(self):
        """Copy the messages; return those that were there."""
        delivery = result(self.maildrops.open_delivery(b"ann"))
        try:
            return [
                uid
                for time, uid in enumerate(self.uids_given, 1_600_000_000)
                if not self.copy_message(delivery, uid, time)
            ]
        finally:
            result(delivery.commit())
            result(delivery.release())

    def copy_message(self, delivery, uid, time):
        """Copy a message; return whether it was not there."""
        body = body_of(b"Subject: \xc3\xa9 %b\n\n" % uid)
        return result(delivery.deliver(uid, MessageDetails(time), body))

    def discard_sizes(self):
        """Let the next session read all messages."""
        with self.session() as mailbox:
            result(mailbox.discard_sizes())

    def listing(self, change, times=1):
        """Change what the next scans list, which is given as files and missing numbers."""
        real = folder._list
        left = [None] * times

        def listed(fd):
            found = real(fd)
            if left:
                left.pop()
                change(*found[:2])
            return found

        return patch.object(folder, "_list", listed)

    def saved(self):
        """Return the unique-ids in the index file."""
        with self.folder() as fd:
            entries, _ = index_file.load(fd, index_file.NOT_COUNTED)
        return sorted(entry.uid for entry in entries)

    def logged(self):
        """Return what was logged."""
        return [formatEvent(event) for event in self.observer]


def miss(files, missing):
    """Leave the second message out of a scan, as if its file were not found."""
    del files[2]
    missing.append(2)


def overlook(files, _missing):
    """Leave it out as if it had been renamed while the folder was listed."""
    del files[2]


class AbsentTests(LeftOutCase):
    """What is not found, or may not be read, for a while keeps its unique-id."""

    def check(self, *uids):
        """Check what sessions show, before and after a restart."""
        self.assertEqual(self.uids(), [*uids])
        self.restart()
        self.assertEqual(self.uids(), [*uids])

    def test_unreadable(self):
        """A message that may not be read keeps it, whoever writes the index file meanwhile."""
        self.patch(module, "SAVE_THRESHOLD", 1)
        for self.downgrader in (Downgrader, None):
            # Sizes of the other kind are not used, so that all messages are read.
            self.restart()
            with unreadable(2):
                self.assertEqual(self.uids(), [b"a", b"c"])
            self.assertEqual(self.saved(), [b"a", b"b", b"c"])
            self.assertEqual(self.uids(), [b"a", b"b", b"c"])
        self.check(b"a", b"b", b"c")

    def test_sizes(self):
        """Its sizes, which may be of the other kind, are not used again."""
        self.patch(module, "SAVE_THRESHOLD", 1)
        self.downgrader = Downgrader
        self.restart()
        with unreadable(2):
            self.uids()
        self.restart()
        with self.session() as mailbox:
            downgraded = [entry.sizes.downgraded for entry in mailbox.index.entries]
        self.assertNotIn(None, downgraded)

    def test_overlooked(self):
        """A message that is overlooked while others are renamed keeps it."""
        self.uids()
        self.deliver(b"new\n")
        with (
            self.listing(overlook),
            patch.object(folder, "CLOCK_TICK", 1 << 62),
            self.session() as mailbox,
        ):
            self.assertEqual(len(mailbox.messages), 3)
            result(mailbox.discard_sizes())
        new = self.uids()[-1]
        self.check(b"a", b"b", b"c", new)

    def test_forgotten(self):
        """It does so if the session removes other messages."""
        self.uids()
        with self.listing(overlook), patch.object(folder, "CLOCK_TICK", 1 << 62):
            self.deliver(b"new\n")
            self.remove(2)
        self.check(b"a", b"b", b"c")

    def test_restored(self):
        """A message of a restored backup, whose inode is another one, keeps it."""
        self.patch(module, "SAVE_THRESHOLD", 1)
        for number in (1, 2, 3):
            copy = self.file("copy")
            shutil.copy2(self.file(number), copy)
            os.rename(copy, self.file(number))
        self.restart()
        with unreadable(2):
            self.assertEqual(self.uids(), [b"a", b"c"])
        self.check(b"a", b"b", b"c")

    def test_restored_copies(self):
        """Messages with the same octets and time keep theirs in order."""
        self.deliver(b"same\n")
        for number in (5, 6):
            shutil.copy2(self.file(4), self.file(number))
        uids = self.uids()
        copy = self.path + ".copy"
        shutil.copytree(self.path, copy)
        shutil.rmtree(self.path)
        shutil.move(copy, self.path)
        self.restart()
        self.check(*uids)

    def test_unreadable_copies(self):
        """Nor do those that may not be read exchange theirs."""
        self.patch(module, "SAVE_THRESHOLD", 1)
        self.deliver(b"same\n")
        shutil.copy2(self.file(4), self.file(5))
        uids = self.uids()
        self.discard_sizes()
        for _ in range(3):
            with unreadable(4, 5):
                self.deliver(b"new\n")
                self.uids()
            self.restart()
        self.assertEqual(self.uids()[:5], uids)

    def test_copied(self):
        """A copy of it gets another one."""
        self.deliver(b"4\n")
        uids = self.uids()
        self.discard_sizes()
        shutil.copy2(self.file(4), self.file(5))
        with unreadable(4):
            *others, new = self.uids()
        self.assertEqual(others, uids[:3])
        self.assertNotIn(new, uids)
        self.check(*uids, new)

    def test_no_growth(self):
        """The index file has nothing of messages that were removed."""
        self.patch(module, "SAVE_THRESHOLD", 1)
        self.discard_sizes()
        with unreadable(2):
            self.uids()
            for _ in range(3):
                self.deliver(b"x\n")
                os.unlink(self.file(max(numbers_in(self.path))))
                self.deliver(b"y\n")
                self.uids()
            os.unlink(self.file(1))
            for restarts in (False, True):
                if restarts:
                    self.restart()
                self.deliver(b"z\n")
                shown = self.uids()
                self.assertEqual(self.saved(), sorted([b"b", *shown]))
        os.unlink(self.file(2))
        self.deliver(b"z\n")
        shown = self.uids()
        self.assertEqual(self.saved(), sorted(shown))


class WholeTests(LeftOutCase):
    """No message is left out silently, or copied again, because it was not found."""

    def test_not_found_once(self):
        """What was not found once is looked for again."""
        once = FileNotFoundError(errno.ENOENT, "No such file or directory")
        os.unlink(self.file(".popserv-index"))
        left = []
        for is_known in (True, False):
            self.restart()
            if is_known:
                self.uids()
                os.utime(self.file(2), ns=(5, 5))
            left.append(b"2")
            opening = failing(os, "open", once, lambda name, *_: [name] == left and left.pop())
            with opening, self.listing(miss):
                self.assertEqual(len(self.uids()), 3)
            self.assertEqual(left, [])
        self.assertEqual(self.logged(), [])
        self.assertEqual(len(self.waited), 4)

    def test_never_found(self):
        """A folder of which a listed message is not found is not opened, as with an I/O error."""
        for is_known in (True, False):
            self.restart()
            if is_known:
                self.uids()
            self.waited.clear()
            with self.listing(miss, times=99), self.assertRaises(TryLater) as refused:
                self.deliver(b"new\n")
                self.uids()
            self.assertEqual(self.waited, list(folder.RETRY_DELAYS))
            self.assertIn(f"{self.file(2)}: Stale file", str(refused.exception.__cause__))

    def test_renumbered(self):
        """A message that is renumbered before it is counted is there, and is not copied again."""
        for copies in (False, True):
            for action in (self.move_last, self.swap):
                self.discard_sizes()
                self.once_opened(action)
                if copies:
                    self.assertEqual(self.copy_to(), [*self.uids_given])
                self.assertEqual(sorted(self.uids()), [*self.uids_given])
        self.assertEqual(self.logged(), [])

    def once_opened(self, action):
        """Do something when the first message has been opened."""
        real = counting.open_number

        def opened(*args):
            fd = real(*args)
            self.patch(counting, "open_number", real)
            action()
            return fd

        self.patch(counting, "open_number", opened)

    def move_last(self):
        """Renumber the last message."""
        last = max(numbers_in(self.path))
        os.rename(self.file(last), self.file(last + 1))

    def swap(self):
        """Exchange the first message with the last one."""
        numbers = numbers_in(self.path)
        first, last = map(self.file, (numbers[0], numbers[-1]))
        os.rename(first, first + ".tmp")
        os.rename(last, first)
        os.rename(first + ".tmp", last)

    def test_unsettled(self):
        """While messages keep being renamed, a copy is refused, and a first session is told."""
        self.restart()
        with patch.object(folder, "CLOCK_TICK", 1 << 62):
            with self.assertRaises(TryLater) as refused:
                self.copy_to()
            problem = f"{self.path}: other programs keep renaming its messages"
            self.assertEqual(str(refused.exception.__cause__), problem)
            self.assertEqual(self.waited, list(folder.RETRY_DELAYS))
            self.assertEqual(self.uids(), [*self.uids_given])
            self.assertEqual(self.logged(), [f"message skipped: {problem}"])
            # Later sessions do not wait: what they overlook, the next one shows.
            self.waited.clear()
            self.uids()
            self.assertEqual(self.waited, [])
        self.assertEqual(len(self.logged()), 1)

    def test_renumbered_always(self):
        """A session of which each scan misses a renumbered message shows the others."""
        self.uids()
        self.deliver(b"new\n")

        def renamed(files, missing):
            del files[2]
            missing.append(77)

        with self.listing(renamed, times=99):
            self.assertEqual(len(self.uids()), 3)
        self.assertEqual(len(self.logged()), 1)
        self.assertEqual(self.uids()[:3], [*self.uids_given])
