"""index: order, unique-ids, updates by scans, and the size file."""

import errno
import gc
import gzip
import os
import shutil
import time
import tracemalloc
from functools import partial
from hashlib import blake2b
from itertools import pairwise
from unittest import mock

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.core import listings
from popserv.core.maildrop import Maildrop
from popserv.maildrops.cached_open import NotCached
from popserv.maildrops.maildir import folders
from popserv.maildrops.maildir.contents.compressed import STARTS
from popserv.maildrops.maildir.listing import counting, index, size_file
from popserv.maildrops.maildir.listing.size_file import decode
from popserv.messages.downgrade.downgrader import Downgrader
from popserv.messages.octets import count_message
from popserv.messages.sizes import measure
from tests.maildrops.maildir.harness import (
    DIRECTORY,
    SLOW,
    IndexedCase,
    MaildirCase,
    SizeFileCase,
    before_each_call,
    failing,
    read_message,
    result,
    uids_of,
    wait_for_clock_tick,
)
from tests.messages.harness import texts

ORDERS = {
    "by time": [b"new/8.x", b"cur/9.b:2,S", b"new/10.a", b"cur/100.c:2,"],
    "then by name": [b"cur/5.A:2,", b"new/5.B", b"cur/5.a:2,RS", b"new/5.b"],
    "flags do not count": [b"cur/5.a:2,S", b"cur/5.aa:2,", b"new/5.ab"],
    "names without a time come first": [
        b"new/ 3.x",
        b"cur/+2.x",
        b"new/1_0.x",
        b"new/Zed",
        b"new/1.x",
    ],
    "digits of other scripts are no time": ["new/\u0663.x".encode(), b"new/1.x"],
    "a name may be a time alone": [b"new/6.x", b"new/7", b"cur/8:2,"],
    "leading zeros do not count": [b"new/7.x", b"new/008.x", b"new/9.x"],
    "more than 19 digits are no time": [b"new/%b.a" % (b"1" * n) for n in (20, 240, 1, 19)],
}


class OrderTests(MaildirCase):
    """Messages are in the order of the time at the start of their names, then of their names."""

    def test_orders(self):
        """Messages are in the order of the table, in whatever order the files were created."""
        for rule, names in ORDERS.items():
            user = rule.encode()
            self.make_maildir(user)
            for name in reversed(names):
                self.put(name, name, user)
            with self.session(user) as mailbox:
                order = [read_message(mailbox, at) for at in range(len(mailbox.messages))]
            self.assertEqual(order, names, rule)

    def test_many(self):
        """A maildrop of 20,000 is in order, and its index takes less than 250 bytes a message."""
        messages = 20_000
        names = [b"%d.M%06dP1234.host.example.org" % (999_990_000 + n, n) for n in range(messages)]
        for n in range(messages):
            name = names[n * 7919 % messages]
            os.close(os.open(self.path_of(b"cur/%b:2,S" % name), os.O_CREAT | os.O_WRONLY))
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        before, _ = tracemalloc.get_traced_memory()
        with self.session() as mailbox:
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
            self.assertEqual(list(mailbox.messages.uids), names)
        self.assertLess((after - before) / messages, 250)


class FolderTests(IndexedCase):
    """Only folders that have changed are listed."""

    def test_one_folder(self):
        """If one folder has not changed, only the other one is listed."""
        wait_for_clock_tick()
        self.assertEqual(self.scans()[1], 2)
        for name in (b"new/3.c", b"cur/4.d:2,S", b"new/0.e"):
            self.put(name, b"Subject: 1\n\n")
            wait_for_clock_tick()
            messages, scans = self.scans()
            self.assertEqual(scans, 1, name)
            self.assertIn(name[4:7], [message.uid for message in messages])
        self.assertEqual(len(self.read_in_session()), 5)

    def test_moved(self):
        """If a message has moved, both folders are listed."""
        wait_for_clock_tick()
        self.scans()
        self.move(b"new/1.a", b"cur/1.a:2,S")
        self.assertEqual(self.scans()[1], 2)
        self.assertEqual(self.read_in_session(), [b"first\n", b"second\n"])

    def test_duplicate_of_unlisted(self):
        """A file with the base name of a message in the other folder gets one of its own."""
        for name, messages in ((b"new/2.b", 3), (b"cur/1.a", 4)):
            wait_for_clock_tick()
            self.scans()
            self.put(name, b"another\n")
            with self.session() as mailbox:
                self.assertEqual(len(set(uids_of(mailbox))), messages)
                self.assertEqual(len(mailbox.messages), messages)
        messages = self.read_in_session()
        self.assertEqual(sorted(messages), [b"another\n"] * 2 + [b"first\n", b"second\n"])


mail = texts | texts.map(lambda text: text + b"\n\n")


class CachedUpdateTests(MaildirCase):
    """Without waiting, an index is brought up to date as in a thread, or not at all."""

    def setUp(self):
        """Open the Maildir."""
        super().setUp()
        self.patch(folders, "TRUSTED_AGE", folders.CLOCK_TICK)
        # The kernel may fail with EAGAIN at any time.
        self.patch(counting, "open_cached", os.open)
        self.folders = folders.Folders(os.open(self.path_of(b""), DIRECTORY))
        self.addCleanup(self.folders.close)
        self.before = self.update(index.empty_index(None))

    def update(self, before, **options):
        """Bring an index up to date, and close the folders."""
        try:
            return index.update_index(self.folders, before, **options)
        finally:
            self.folders.close_folders()

    @staticmethod
    def name_at(base_name, location):
        """Return the name of a file below the Maildir."""
        return b"%b/%b%b" % (folders.FOLDER_NAMES[location[0]], base_name, location[1:])

    def assert_not_cached(self, reason):
        """Check that the index cannot be brought up to date, and can be in a thread."""
        with self.assertRaises(NotCached, msg=reason):
            self.update(self.before, texts={})
        self.update(self.before)

    @SLOW
    @given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4), mail), max_size=8))
    @example([(0, 0, b"\x1f\x8b\n\n")])
    def test_same(self, changes):
        """After any changes both ways have the same result."""
        self.make_empty()
        before = self.update(self.before)
        for number, action, message in changes:
            names = self.file_names()
            if action < 2 or not names:
                folder = (b"new", b"cur")[action % 2]
                self.put(b"%b/%d.%d" % (folder, number, next(self.ticks)), message)
            elif action == 2:
                os.unlink(self.path_of(names[number % len(names)]))
            elif action == 3:
                name = names[number % len(names)]
                moved = b"cur/%b:2,%b" % (name[4:].split(b":")[0], b"S" * (number % 2))
                os.rename(self.path_of(name), self.path_of(moved))
            else:
                before = self.update(before)
            counted = {}
            try:
                cached = self.update(before, texts=counted)
            except NotCached:
                # A thread looks at those without a blank line, which may be special files, and at
                # those that may be compressed.
                in_thread = [
                    text.startswith(STARTS) or not count_message(text)[1] for *_, text in changes
                ]
                self.assertIn(True, in_thread)
                continue
            waited = self.update(before)
            self.assertEqual(cached[:3], waited[:3])
            self.assertEqual(set(counted), set(cached.base_names) - set(before.base_names))
            for name, location in zip(cached.base_names, cached.locations, strict=True):
                with open(self.path_of(self.name_at(name, location)), "rb") as file:
                    self.assertIn(counted.get(name), (None, file.read()))
            self.assertEqual([*cached.messages.sizes()], [*waited.messages.sizes()])
            self.assertEqual(cached.messages.uids, waited.messages.uids)

    def test_bounds(self):
        """A thread is needed for many messages, and for many new ones."""
        for n in range(5):
            self.put(b"new/%d.x" % n, b"\n")
        with mock.patch.object(index, "MAX_CACHED_COUNTS", 4):
            self.assert_not_cached("new messages")
        with mock.patch.object(index, "MAX_CACHED_COUNTS", 5):
            self.before = self.update(self.before, texts={})
        with mock.patch.object(index, "MAX_CACHED_MESSAGES", 4):
            self.assert_not_cached("messages")
        with mock.patch.object(index, "MAX_CACHED_MESSAGES", 5):
            self.update(self.before, texts={})

    def test_local(self):
        """The next session may open the folders without a thread if they are on this machine."""
        for is_local in (True, False):
            with mock.patch.object(folders, "is_local_filesystem", return_value=is_local):
                updated = self.update(index.empty_index(None))
            self.assertIs(updated.can_open_cached, is_local)

    def test_recorded(self):
        """Each update records how many messages it has counted."""
        recorded = []
        for n in range(3):
            self.put(b"new/1%d.x" % n, b"\n")
            self.put(b"cur/2%d.x" % n, b"\n")
            self.before = self.update(self.before, record=recorded.append)
        self.update(self.before, record=recorded.append, texts={})
        self.assertEqual(recorded, [2, 2, 2, 0])

    def test_folders(self):
        """A folder must have been changed recently, and be small, to be in memory for sure."""
        path = self.path_of(b"new")
        for age in (folders.RECENTLY + 10**9, -(10**12)):
            os.utime(path, ns=(0, time.time_ns() - age))
            self.assert_not_cached(age)
        os.utime(path, ns=(0, time.time_ns() - folders.RECENTLY + 10**10))
        self.update(self.before, texts={})
        with mock.patch.object(folders, "_BLOCK", -1):
            self.assert_not_cached("a folder of several blocks")

    def test_duplicates(self):
        """A thread renames duplicates."""
        names = [b"cur/1.a:2,S", b"new/1.a"]
        for name in names:
            self.put(name, name + b"\n\n")
        self.assert_not_cached("duplicates")
        self.assertNotEqual(sorted(self.file_names()), names)
        self.before = self.before._replace(duplicates={b"2.b": b"1.a"})
        self.assert_not_cached("a duplicate that could not be renamed")

    def test_messages(self):
        """A thread counts what is not small, or has to be looked at closely."""
        large = b"x" * counting.SMALL_MESSAGE
        large += b"\n\n"
        for message in (b"", b"Subject: x\n", large, large[2:], gzip.compress(b"x\n")):
            self.put(b"new/1.a", message)
            self.assert_not_cached(len(message))
        text = b"Subject: \xc3\xbc\n\n"
        self.put(b"new/1.a", text)
        self.update(self.before, texts={})
        self.before = self.update(index.empty_index(Downgrader))
        self.put(b"new/2.b", text)
        self.assert_not_cached("UTF-8 in a header field")
        self.put(b"new/2.b", large[3:])
        self.update(self.before, texts={})

    def test_page_cache(self):
        """A thread reads a message that the page cache does not have, or has in part."""
        self.put(b"new/1.a", b"a: b\n\nx\n")
        error = BlockingIOError(errno.EAGAIN, "not in the page cache")
        with failing(os, "preadv", error):
            self.assert_not_cached("not in the page cache")
        real = os.preadv

        def preadv(fd, buffers, offset, flags):
            return real(fd, [buffers[0][:7]], offset)

        with mock.patch.object(os, "preadv", preadv):
            self.assert_not_cached("in part")

    def test_dentry_cache(self):
        """A thread opens a message that the dentry cache does not have."""
        self.put(b"new/1.a", b"a: b\n\n")
        error = BlockingIOError(errno.EAGAIN, "not in the dentry cache")
        with failing(counting, "open_cached", error):
            self.assert_not_cached("not in the dentry cache")


class SavingTests(SynchronousTestCase):
    """When the size file is written: if it spares more than writing it costs."""

    def is_worth_saving(self, messages, saved, unsaved=0, has_times=True, times=None):
        """Return whether a maildrop is, given the messages in its file and those to be added."""
        state = index.SizeFileState(saved, has_times)
        state.unsaved = unsaved
        each = index.empty_index(None, state)
        return each._replace(base_names=(b"1.a",) * messages, times=times).is_worth_saving()

    def test_new(self):
        """Fifty new messages are worth it, in a large maildrop one in a hundred."""
        for messages, unsaved, is_worth in (
            *((0, 0, False), (60, 49, False), (60, 50, True), (5000, 50, True)),
            *((5099, 50, True), (5100, 50, False), (6000, 59, False), (6000, 60, True)),
        ):
            self.assertIs(self.is_worth_saving(messages, 0, unsaved), is_worth, messages)

    def test_removed(self):
        """So is a file with twice as many messages as there are, if these are fifty."""
        for messages, saved, is_worth in (
            *((0, 49, False), (0, 50, True), (25, 50, True), (26, 50, False)),
            *((100, 199, False), (100, 200, True)),
        ):
            self.assertIs(self.is_worth_saving(messages, saved), is_worth, (messages, saved))

    def test_times(self):
        """So is a file without times, once each folder has them."""
        new, cur = (0, 1, 2, 3, 4), (1, 1, 5, 3, 4)
        for saved, has_times, times, is_worth in (
            (1, False, [new, cur], True),
            (1, False, [new, (1,)], False),
            (1, False, None, False),
            (1, True, [new, cur], False),
            (0, False, [new, cur], False),
        ):
            found = self.is_worth_saving(1, saved, 0, has_times, times)
            self.assertIs(found, is_worth, (saved, has_times, times))
        without_file = index.empty_index(None)._replace(base_names=(b"1.a",), times=[new, cur])
        self.assertFalse(without_file.is_worth_saving())

    def test_saved(self):
        """A file that was written, or could not be, is not written again for the same messages."""
        each = index.empty_index(None)
        state = each.size_file_state
        for messages, times, has_times in (
            (3, [(0, 1, 2, 3, 4)], True),
            (2, None, False),
            (0, [], True),
        ):
            state.unsaved = 9
            with mock.patch.object(size_file, "save"), mock.patch.object(size_file, "remove"):
                each._replace(base_names=(b"1.a",) * messages, times=times).save(-1)
            found = (state.messages, state.has_times, state.unsaved)
            self.assertEqual(found, (messages, has_times, 0))


class UniqueIdTests(MaildirCase):
    """A unique-id is the base name, or a digest of it (RFC 1725 section 7)."""

    def test_valid(self):
        """A base name of 1 to 70 bytes from 0x21 to 0x7E is the unique-id."""
        for name in (b"1.a", b"1." + b"a" * 68, b"!\"#$%&'()*+,-;<=>?@[\\]^_`{|}~", b"2.a,S=9,W=9"):
            self.put(b"new/" + name)
            with self.session() as mailbox:
                self.assertIn(name, uids_of(mailbox))

    def test_digests(self):
        """Any other base name has a digest as unique-id, which no later version may change."""
        names = [b"1." + b"a" * 69, b"1 a", b"1\xe9", b"1\n.", b"1\x7f", b"1\t", b"", b"\xff" * 250]
        for name in names:
            self.put(b"cur/" + name + b":2,")
        with self.session() as mailbox:
            digests = [blake2b(name, digest_size=20).hexdigest().encode() for name in names]
            self.assertEqual(sorted(uids_of(mailbox)), sorted(digests))

    def test_stable(self):
        """A unique-id does not change with flags or folder."""
        seen = []
        self.put(b"new/1.a")
        self.put(b"new/1 b")
        infos = [b":2,", b":2,RS", b";2,", b";2,FS", b"!2,a", b":1,x", b""]
        names = [b"new/%b", *(b"cur/%b" + info for info in infos)]
        for old, new in pairwise(names):
            with self.session() as mailbox:
                seen.append(uids_of(mailbox))
            for name in (b"1.a", b"1 b"):
                self.move(old % name, new % name)
        with self.session() as mailbox:
            self.assertEqual(seen, [uids_of(mailbox)] * len(infos))


class UpdateTests(MaildirCase):
    """A scan counts what is new, and finds what was renamed."""

    def test_counted_once(self):
        """A later login reads the messages delivered since, and no other."""
        self.put(b"new/1.a")
        self.put(b"cur/2.b:2,")
        self.assertEqual(sorted(self.files_read_at_logins(b"ann")), [b"1.a", b"2.b:2,"])
        self.move(b"new/1.a", b"cur/1.a:2,S")
        self.put(b"new/3.c")
        self.assertEqual(self.files_read_at_logins(b"ann", b"ann"), [b"3.c"])
        self.assertEqual(len(self.read_in_session()), 3)

    def test_renamed_before_counting(self):
        """A message renamed between listing and counting is searched for again."""
        self.put(b"cur/1.a:2,")
        move = partial(self.move, b"cur/1.a:2,", b"cur/1.a:2,S")
        with (
            mock.patch.object(folders, "times_of", return_value=(0, 0)),
            self.acting_during_scan([lambda: None, move]),
            self.session() as mailbox,
        ):
            self.assertEqual(read_message(mailbox, 0), b"x\n")


class InvalidationTests(IndexedCase):
    """An index is not used again if a message was left out."""

    def test_unreadable(self):
        """A message without read permission is tried at the next login: chmod changes no folder."""
        denied = PermissionError(errno.EACCES, "denied")
        wait_for_clock_tick()
        with failing(os, "open", denied, lambda name, *_: name == b"1.a"):
            self.assertEqual(len(self.scans()[0]), 1)
        self.assertEqual(len(self.scans()[0]), 2)

    def test_vanishing(self):
        """A file that was listed and could not be opened is tried at the next login."""
        wait_for_clock_tick()
        gone = FileNotFoundError(errno.ENOENT, "gone")
        with failing(os, "open", gone, lambda name, *_: name == b"1.a"):
            self.assertEqual(len(self.scans()[0]), 1)
        self.assertEqual(len(self.scans()[0]), 2)


class ListingTests(IndexedCase):
    """Listings are shared by sessions and by the snapshots that follow."""

    def test_shared(self):
        """Sessions share a listing, and a delivery keeps the full chunks of lines before it."""
        self.patch(listings, "LINES_PER_CHUNK", 2)
        self.put(b"new/3.c")
        seen = []
        for delivered in (b"new/4.d", None):
            wait_for_clock_tick()
            for _ in range(2):
                with self.session() as mailbox:
                    view = Maildrop(mailbox.messages)
                    seen.append([*view.scan_listing(), *view.unique_id_listing()])
            if delivered:
                self.put(delivered)
        for one, other in zip(*seen[:2], strict=True):
            self.assertIs(one, other)
        self.assertEqual([a is b for a, b in zip(*seen[1:3], strict=True)], [True, False] * 2)


class SizeFileTests(SizeFileCase):
    """The size file spares counting after a restart, and cannot make a session wrong."""

    def test_restart(self):
        """After a restart an unchanged maildrop is neither scanned nor counted."""
        wait_for_clock_tick()
        first = self.listing()
        self.restart()
        with (
            failing(os, "scandir", AssertionError("listed")),
            failing(os, "open", AssertionError("read"), lambda name, *_: name in self.names),
        ):
            self.assertEqual(self.listing(), first)
        self.assertEqual(self.read_in_session(), self.bodies)

    def test_not_local(self):
        """On a file system that is not local, each session is opened in a thread."""
        wait_for_clock_tick()
        self.listing()
        self.restart()
        self.maildrops._open_cached = self.fail
        with mock.patch.object(folders, "is_local_filesystem", return_value=False):
            for _ in range(3):
                self.listing()

    def test_columns(self):
        """Downgraded forms and header-only messages survive a restart, too."""
        self.downgrader = Downgrader
        self.restart()
        self.put(b"new/1600000004.d", "Subject: \u00e4\n\nx\n".encode())
        self.put(b"new/1600000005.e", "Subject: \u00e4\n\n".encode() * 2)
        self.put(b"new/1600000006.f", b"\xff\n" * 100_000)
        first = self.listing()
        self.assertEqual(self.files_read_after_restart(), [])
        self.assertEqual(self.listing(), first)

    def test_other_option(self):
        """A size file with downgraded forms is not used without them, nor the other way round."""
        text = "Subject: \u00fc\n\nx\n".encode()
        self.put(self.names[0], text)
        wait_for_clock_tick()
        expected = {}
        for downgrader in (None, Downgrader):
            self.downgrader = downgrader
            expected[downgrader] = measure([text], downgrader)
        self.assertNotEqual(*expected.values())
        for self.downgrader in (None, Downgrader, None, Downgrader):
            for read in ([name[4:].partition(b":")[0] for name in self.names], []):
                files = self.files_read_after_restart()
                self.assertEqual(sorted(name.partition(b":")[0] for name in files), sorted(read))
                self.assertEqual(self.listing()[1][1], expected[self.downgrader])
            with open(self.file, "rb") as file:
                downgraded = decode(file.read()).downgraded
            forms = {1: expected[Downgrader].downgraded} if self.downgrader else None
            self.assertEqual(downgraded, forms)

    def test_former_format(self):
        """A file of the former format, whose stamps had other rules, is replaced."""
        # Before it, the file has no stamps.
        wait_for_clock_tick()
        self.listing()
        with open(self.file, "rb") as file:
            data = file.read()
        former = data[:-32].replace(b"sizes 3", b"sizes 2", 1)
        with open(self.file, "wb") as file:
            file.write(former + blake2b(former, digest_size=32).digest())
        self.assertEqual(len(self.files_read_after_restart()), 3)
        with open(self.file, "rb") as file:
            self.assertEqual(file.read(), data)

    def test_changes(self):
        """Changes since the file was written are found: new, removed and renamed messages."""
        self.listing()
        self.put(b"new/1600000000.z")
        os.unlink(self.path_of(self.names[0]))
        os.rename(self.path_of(self.names[1]), self.path_of(b"cur/1600000001.a:2,FS"))
        self.assertEqual(self.files_read_after_restart(), [b"1600000000.z"])
        self.assert_size_file_right()
        self.assertEqual(
            self.read_in_session(), [b"x\n", b"new/1600000001.a\n", b"new/1600000003.c\n"]
        )

    def test_any_byte(self):
        """With any byte of the file wrong, or any part of its end missing, all sizes are right."""
        wait_for_clock_tick()
        first = self.listing()
        with open(self.file, "rb") as file:
            whole = file.read()
        for at in range(len(whole)):
            flipped = whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :]
            for data in (flipped, whole[:at]):
                # Overwriting a file may wait for the disk.
                os.unlink(self.file)
                with open(self.file, "wb") as file:
                    file.write(data)
                self.restart()
                self.assertEqual(self.listing(), first, at)
        self.assertEqual(self.read_in_session(), self.bodies)

    def test_threshold(self):
        """No size file is written for a few messages, nor rewritten for a few more."""
        self.patch(index, "SAVE_THRESHOLD", 4)
        self.listing()
        self.assertFalse(os.path.exists(self.file))
        self.put(b"new/1600000004.d")
        self.listing()
        wait_for_clock_tick()
        self.listing()
        before = os.stat(self.file)
        for n in range(3):
            self.put(b"new/160000001%d.x" % n)
            self.listing()
        self.assertEqual(os.stat(self.file).st_ino, before.st_ino)
        self.assertEqual(len(self.files_read_after_restart()), 3)
        self.put(b"new/1600000020.x")
        self.listing()
        self.assertEqual(self.files_read_after_restart(), [])

    def test_times_later(self):
        """A size file without times is rewritten once when there are some."""
        self.listing()
        wait_for_clock_tick()
        inodes = []
        with before_each_call(os, "rename", inodes.append):
            for _ in range(3):
                self.listing()
                self.restart()
                with self.session():
                    pass
        self.assertLessEqual(len(inodes), 1)
        with failing(os, "scandir", AssertionError("listed")):
            self.listing()

    def test_removed(self):
        """Removed messages are not worth a size file, and without messages it is removed."""
        with self.session() as mailbox:
            result(mailbox.remove(mailbox.messages[:2]))
        self.assertFalse(os.path.exists(self.file))
        for n in range(2):
            self.put(b"new/160000001%d.x" % n)
        self.listing()
        self.assertTrue(os.path.exists(self.file))
        with self.session() as mailbox:
            result(mailbox.remove(mailbox.messages))
        self.listing()
        self.assertFalse(os.path.exists(self.file))
        self.assertEqual(self.files_read_after_restart(), [])

    def test_other_info(self):
        """Other info separators are in the size file, and not in its base names."""
        for n, info in enumerate((b";2,", b"!2,FS", b";2", b":1,x")):
            self.put(b"cur/160000001%d.x%b" % (n, info))
        self.listing()
        self.assertEqual(self.files_read_after_restart(), [])
        self.put(b"new/1600000020.x")
        self.move(b"cur/1600000010.x;2,", b"cur/1600000010.x!2,S")
        self.assertEqual(self.files_read_after_restart(), [b"1600000020.x"])
        self.assert_size_file_right()

    def test_other_folder(self):
        """The times of another folder do not count, even if all names are the same."""
        wait_for_clock_tick()
        self.listing()
        for folder in (b"new", b"cur"):
            shutil.copytree(self.path_of(folder), self.path_of(b"tmp/x"))
            shutil.rmtree(self.path_of(folder))
            os.rename(self.path_of(b"tmp/x"), self.path_of(folder))
        os.unlink(self.path_of(self.names[2]))
        self.assert_size_file_right()
        self.assertEqual(len(self.read_in_session()), 2)

    def test_disk_full(self):
        """A size file that cannot be written is no error, and is not tried at each session."""
        wait_for_clock_tick()
        for name in ("open", "write", "rename"):
            self.restart()
            error = OSError(errno.ENOSPC, "full")
            tried = []

            def is_size_file(first, *_, name=name, tried=tried):
                is_ours = name == "write" or first == size_file.UNFINISHED_NAME
                tried.extend([1] * is_ours)
                return is_ours

            with failing(os, name, error, is_size_file), mock.patch.object(counting, "_log") as log:
                for _ in range(3):
                    self.listing()
            self.assertEqual((len(tried), log.mock_calls), (1, []))
            self.assertEqual(os.listdir(self.path_of(b"")).count(size_file.NAME), 0)

    def test_links(self):
        """A symbolic link in its place is not followed, and its target is not changed."""
        self.listing()
        os.rename(self.file, self.path_of(b"other"))
        os.symlink("other", self.file)
        before = os.stat(self.path_of(b"other"))
        self.assertEqual(len(self.files_read_after_restart()), 3)
        self.assertFalse(os.path.islink(self.file))
        self.assertEqual(os.stat(self.path_of(b"other")).st_mtime_ns, before.st_mtime_ns)
