"""popserv.maildrops.maildir.folders: scans, and whether anything changed since."""

import os
import shutil
import time
from functools import partial
from itertools import chain, count
from unittest import mock

from popserv.errors import MaildropUnavailable
from popserv.maildrops.cached_open import NotCached
from popserv.maildrops.maildir import folders
from popserv.maildrops.maildir.store import MaildirMaildrops
from tests.maildrops.maildir.harness import (
    DIRECTORY,
    RENAMES,
    SPECIAL_FILES,
    IndexedCase,
    MaildirCase,
    before_each_call,
    clock_tick_of,
    read_message,
    result,
    run_inline,
    uids_of,
    wait_for_clock_tick,
)

CHANGES = {
    "a delivery": lambda case: case.put(b"new/3.c", b"third\n"),
    "a delivery among others": lambda case: case.put(b"new/1.aa"),
    "a delivery to cur": lambda case: case.put(b"cur/0.z:2,"),
    "a removal": lambda case: os.unlink(case.path_of(b"new/1.a")),
    "another program's read": lambda case: os.rename(
        case.path_of(b"new/1.a"), case.path_of(b"cur/1.a:2,S")
    ),
    "other flags": lambda case: os.rename(
        case.path_of(b"cur/2.b:2,"), case.path_of(b"cur/2.b:2,FS")
    ),
    "another program's replacement": lambda case: (
        case.put(b"tmp/1.aaa", b"other\n"),
        os.rename(case.path_of(b"tmp/1.aaa"), case.path_of(b"new/1.aaa")),
        os.unlink(case.path_of(b"new/1.a")),
    ),
    "a delivery in the past": lambda case: (
        case.put(b"new/3.c"),
        os.utime(case.path_of(b"new"), ns=(0, case.before)),
    ),
    "a special file": lambda case: (
        os.unlink(case.path_of(b"new/1.a")),
        os.mkfifo(case.path_of(b"new/1.a")),
    ),
    "another folder": lambda case: (
        os.rename(case.path_of(b"cur"), case.path_of(b"old")),
        os.mkdir(case.path_of(b"cur")),
    ),
    "no folder": lambda case: shutil.rmtree(case.path_of(b"cur")),
    "no Maildir": lambda case: shutil.rmtree(case.path_of(b"")),
    "another Maildir": lambda case: (
        shutil.rmtree(case.path_of(b"")),
        case.make_maildir(),
        case.put(b"new/7.g"),
    ),
    "a link to another Maildir": lambda case: (
        case.make_maildir(b"bob"),
        case.put(b"new/8.h", user=b"bob"),
        shutil.rmtree(case.path_of(b"")),
        os.symlink("bob", case.path_of(b"").rstrip(b"/")),
    ),
}


class UnchangedTests(IndexedCase):
    """Unchanged folders are not scanned again, and changed ones always are."""

    def test_unchanged(self):
        """A second login shows the same snapshot and lists no folder."""
        wait_for_clock_tick()
        first, scans = self.scans()
        self.assertEqual(scans, 2)
        second, scans = self.scans()
        self.assertEqual(scans, 0)
        self.assertIs(second, first)
        self.assertEqual(self.read_in_session(), [b"first\n", b"second\n"])

    def test_changes(self):
        """After any change a login shows what a store without a cache shows."""
        for change, act in CHANGES.items():
            wait_for_clock_tick()
            self.scans()
            self.assertEqual(self.scans()[1], 0, change)
            act(self)
            plain = MaildirMaildrops(self.root, cache_messages=0, run=run_inline)
            for _ in range(2):
                with self.session(maildrops=plain) as mailbox:
                    wanted = list(mailbox.messages)
                with self.session() as mailbox:
                    self.assertEqual(list(mailbox.messages), wanted, change)
                    for at in range(len(wanted)):
                        read_message(mailbox, at)
                wait_for_clock_tick()
            shutil.rmtree(self.root)
            self.make_maildir()
            self.put(b"new/1.a", b"first\n")
            self.put(b"cur/2.b:2,", b"second\n")
            self.before = os.stat(self.path_of(b"new")).st_mtime_ns

    def test_folder_made_later(self):
        """At each login a folder is found that did not exist before."""
        os.unlink(self.path_of(b"new/1.a"))
        os.rmdir(self.path_of(b"new"))
        wait_for_clock_tick()
        self.assertEqual([len(self.scans()[0]) for _ in range(2)], [1, 1])
        os.mkdir(self.path_of(b"new"))
        wait_for_clock_tick()
        self.assertEqual([len(self.scans()[0]) for _ in range(2)], [1, 1])
        self.put(b"new/1.a")
        self.assertEqual(len(self.scans()[0]), 2)

    def test_missing_folder(self):
        """While a folder does not exist, the other one is not listed again either."""
        for name, message in ((b"new", b"new/1.a"), (b"cur", b"cur/2.b:2,")):
            os.unlink(self.path_of(message))
            os.rmdir(self.path_of(name))
            wait_for_clock_tick()
            self.scans()
            self.assertEqual(self.scans()[1], 0)
            os.mkdir(self.path_of(name))
            self.put(message)

    def test_own_removal(self):
        """Removed messages are not shown again, to any user of the same Maildir."""
        os.symlink("ann", self.path_of(b"", b"bob").rstrip(b"/"))
        wait_for_clock_tick()
        for _ in range(2):
            with self.session(b"bob") as mailbox:
                self.assertEqual(len(mailbox.messages), 2)
            self.scans()
        with self.session() as mailbox:
            result(mailbox.remove([mailbox.messages[0]]))
        for user in (b"ann", b"bob"):
            with self.session(user) as mailbox:
                self.assertEqual(uids_of(mailbox), [b"2.b"])

    def test_future_times(self):
        """Folders to which a program has given times in the future are listed once."""
        for name in (b"new", b"cur"):
            os.utime(self.path_of(name), ns=(0, time.time_ns() + 10**12))
        wait_for_clock_tick()
        self.assertEqual([self.scans()[1] for _ in range(3)], [2, 0, 0])
        self.put(b"new/3.c")
        self.assertEqual(len(self.scans()[0]), 3)


class ClockTickTests(MaildirCase):
    """A change within the clock tick of a scan is noticed."""

    def check(self, pauses):
        """Change the Maildir and scan it, again and again, after a pause each."""
        for name in os.listdir(self.path_of(b"new")):
            os.unlink(self.path_of(b"new/" + name))
        names = [b"0.first"]
        self.put(b"new/0.first")
        for n, pause in enumerate(pauses, 1):
            time.sleep(pause)
            with self.session() as mailbox:
                self.assertEqual(uids_of(mailbox), names)
            names.append(b"%d.x" % n)
            self.put(b"new/" + names[-1])
            if len(names) > 3:
                os.unlink(self.path_of(b"new/" + names.pop(0)))

    def test_immediate(self):
        """Thousands of deliveries right after scans are noticed, with a tick of 4 ms and of 1 s."""
        for tick in (4_000_000, 1_000_000_000):
            with clock_tick_of(tick):
                self.check([0] * 2000)

    def test_at_the_edge(self):
        """Scans around the age at which they are trusted miss no delivery."""
        with clock_tick_of(4_000_000):
            self.check(n / 50_000 for n in range(300, 500))


class TimesTests(MaildirCase):
    """Which times of folders are trusted, to the nanosecond."""

    def setUp(self):
        """Open the Maildir, whose folders have times in the past."""
        super().setUp()
        self.folders = folders.Folders(os.open(self.path_of(b""), DIRECTORY))
        self.addCleanup(self.folders.close)
        # Nothing can set the other time, that of the change.
        for name in (b"new", b"cur"):
            os.utime(self.path_of(name), ns=(0, 0))
        self.changed = max(os.stat(self.path_of(name)).st_ctime_ns for name in (b"new", b"cur"))

    def scan_at(self, now):
        """Return a scan that is made at a time."""
        with mock.patch.object(folders.time, "clock_gettime_ns", return_value=now):
            return self.folders.scan()

    def test_settled(self):
        """A scan is settled if the folders have changed more than a clock tick before."""
        for age, is_settled in (
            (0, False),
            (folders.CLOCK_TICK, False),
            (folders.CLOCK_TICK + 1, True),
        ):
            self.assertIs(self.scan_at(self.changed + age).is_settled, is_settled)
        os.utime(self.path_of(b"cur"), ns=(0, self.changed + 10**12))
        self.assertTrue(self.scan_at(self.changed + 10**11).is_settled)

    def test_trusted(self):
        """Times are trusted if they are older than what any file system may round to."""
        numbers = [(0,), (1,)]
        self.assertEqual(self.scan_at(self.changed).times, numbers)
        changed = [os.stat(self.path_of(name)).st_ctime_ns for name in (b"new", b"cur")]
        self.assertEqual(self.scan_at(min(changed) + folders.TRUSTED_AGE).times, numbers)
        trusted = self.scan_at(self.changed + folders.TRUSTED_AGE + 1).times
        self.assertEqual(trusted, self.folders.times())
        self.assertEqual([len(each) for each in trusted], [5, 5])
        os.utime(self.path_of(b"cur"), ns=(0, self.changed + 10**12))
        self.assertEqual(self.scan_at(self.changed + 10**11).times, self.folders.times())

    def test_large_inode(self):
        """An inode number, which may be greater than any time, is not taken for one."""
        times_of = folders.times_of

        def with_large_inode(number, status):
            _, device, _, *times = times_of(number, status)
            return number, device, (1 << 64) - 1, *times

        self.patch(folders, "times_of", with_large_inode)
        scan = self.scan_at(self.changed + folders.TRUSTED_AGE + 1)
        self.assertTrue(scan.is_settled)
        self.assertEqual(scan.times, self.folders.times())

    def test_unchanged(self):
        """Folders are unchanged if all that exist have their times, and no other exists."""
        before = self.folders.times()
        self.assertIs(self.folders.are_unchanged_since(before), True)
        os.rmdir(self.path_of(b"new"))
        self.assertEqual([each[0] for each in self.folders.times()], [1])
        self.assertIs(self.folders.are_unchanged_since(before), False)

    def test_local(self):
        """The Maildir and both folders must be on local file systems."""
        paths = []

        def is_local(fd):
            paths.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
            return paths[-1] != "cur"

        with mock.patch.object(folders, "is_local_filesystem", is_local):
            self.assertIs(self.folders.are_local(), False)
            self.assertEqual(paths, ["ann", "new", "cur"])
            self.folders.close_folders()
            os.rmdir(self.path_of(b"cur"))
            self.assertIs(self.folders.are_local(), True)

    def test_cached(self):
        """A folder is in memory for sure if it is small, and was changed in the last 30 seconds."""
        at = 10**18
        for name in (b"new", b"cur"):
            os.utime(self.path_of(name), ns=(0, at))
        for age, is_cached in (
            (-1, False),
            (0, True),
            (folders.RECENTLY - 1, True),
            (folders.RECENTLY, False),
        ):
            with mock.patch.object(folders.time, "time_ns", return_value=at + age):
                if is_cached:
                    self.folders.scan(cached=True)
                else:
                    self.assertRaises(NotCached, self.folders.scan, cached=True)
        size = os.stat(self.path_of(b"new")).st_size
        with mock.patch.object(folders.time, "time_ns", return_value=at):
            with mock.patch.object(folders, "_BLOCK", size):
                self.folders.scan(cached=True)
            with mock.patch.object(folders, "_BLOCK", size - 1):
                self.assertRaises(NotCached, self.folders.scan, cached=True)


class ScanTests(MaildirCase):
    """A scan finds all messages, while other programs rename them."""

    def test_special_files(self):
        """Only regular files are listed, and none whose name starts with a dot."""
        for folder in (b"new", b"cur"):
            self.put(folder + b"/.hidden")
            self.put(folder + b"/1." + folder)
            for n, make in enumerate(SPECIAL_FILES.values()):
                make(self.path_of(b"%b/%d.x" % (folder, n)))
        for batch in (1024, 1):
            # Some batches have no message.
            self.patch(folders, "_BATCH", batch)
            self.restart()
            with self.session() as mailbox:
                self.assertEqual(uids_of(mailbox), [b"1.cur", b"1.new"])

    def test_new_before_cur(self):
        """new/ is listed before cur/, in the order in which messages move."""
        self.put(b"new/1.a")
        self.put(b"cur/2.b:2,")
        listed = []
        with self.session() as mailbox:
            read_message(mailbox, 1)
            self.move(b"new/1.a", b"cur/1.a:2,S")
            with before_each_call(os, "scandir", lambda fd: listed.append(os.fstat(fd).st_ino)):
                self.assertEqual(read_message(mailbox, 0), b"x\n")
        inodes = [os.stat(self.path_of(name)).st_ino for name in (b"new", b"cur")]
        self.assertEqual(listed[:2], inodes)

    def test_renamed(self):
        """A message renamed while folders are listed is listed once, and found."""
        for old, new in RENAMES:
            for listings in range(3):
                self.put(old)
                others = [lambda: None] * listings
                move = partial(self.move, old, new)
                with self.acting_during_scan([*others, move]), self.session() as mailbox:
                    self.assertEqual(uids_of(mailbox), [b"1.a"], (new, listings))
                    self.assertEqual(read_message(mailbox, 0), b"x\n")
                    result(mailbox.remove(mailbox.messages))
                self.assertEqual(self.file_names(), [], (new, listings))

    def test_renamed_without_end(self):
        """If folders keep changing, a scan ends without the messages that it could not catch."""
        self.put(b"new/1.a")
        self.put(b"cur/2.b:2,")
        moves = [(b"cur/2.b:2,", b"cur/2.b:2,S"), (b"cur/2.b:2,S", b"cur/2.b:2,")]
        # A scan lists new/ and then cur/; the message is renamed only after cur/.
        renames = chain.from_iterable(
            (lambda: None, partial(self.move, *moves[n % 2])) for n in count()
        )
        with self.acting_during_scan(renames), self.session() as mailbox:
            self.assertEqual(uids_of(mailbox), [b"1.a"])

    def test_missing_folders(self):
        """A folder that does not exist has no messages."""
        for missing in ([b"new"], [b"cur"], [b"new", b"cur"]):
            left = {b"new", b"cur"} - set(missing)
            for folder in left:
                self.put(folder + b"/1.a")
            for folder in missing:
                os.rmdir(self.path_of(folder))
            self.assertEqual(len(self.read_in_session()), len(left), missing)
            with self.session() as mailbox:
                result(mailbox.remove(mailbox.messages))
            for folder in missing:
                os.mkdir(self.path_of(folder))

    def test_folders_replaced(self):
        """A folder that is a link, or not a directory, is refused."""
        for folder in (b"new", b"cur"):
            for kind, make in {
                **SPECIAL_FILES,
                "a link to tmp": partial(os.symlink, "tmp"),
            }.items():
                if make is os.mkdir:
                    continue
                os.rmdir(self.path_of(folder))
                make(self.path_of(folder))
                self.assertIsInstance(self.assert_refused(MaildropUnavailable), OSError, kind)
                os.unlink(self.path_of(folder))
                os.mkdir(self.path_of(folder))
