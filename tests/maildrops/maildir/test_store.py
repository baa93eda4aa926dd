"""popserv.maildrops.maildir.store, among other programs, odd files and a failing system."""

import errno
import gc
import os
import re
import shutil
import stat
import subprocess
import sys
import time
import tracemalloc
from contextlib import contextmanager
from functools import partial
from hashlib import blake2b
from inspect import getsource
from itertools import chain, count, islice
from unittest import mock

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase, TestCase

from popserv.core import snapshot
from popserv.core.maildrop import Maildrop
from popserv.core.snapshot import Message
from popserv.errors import (
    MaildropBusy,
    MaildropUnavailable,
    NoSuchMessage,
    RemovalFailed,
    TryLater,
)
from popserv.maildrops.maildir import cached_open, counting, folders, index, removal, size_file
from popserv.maildrops.maildir.cache import IndexCache
from popserv.maildrops.maildir.index import empty_index
from popserv.maildrops.maildir.store import MaildirMaildrops
from popserv.testing import SAMPLE_MESSAGES, MailboxContract, naive_octets, read_all
from tests.maildrops.maildir.test_cached_open import can_open_cached
from tests.maildrops.maildir.test_layout import watch_descriptors

NOBODY = 65534
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


async def here(function, *args):
    """Run what may block without a thread."""
    return function(*args)


def now(coroutine):
    """Return what a coroutine returns that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits")


def read(mailbox, at):
    """Return the bytes of the message at a position, from 0."""
    return now(read_all(now(mailbox.open(mailbox.messages[at]))))


def uids(mailbox):
    """Return the unique-ids in order."""
    return [message.uid for message in mailbox.messages]


@contextmanager
def failing(owner, name, error, when=lambda *_: True):
    """Have a function raise an error, at the calls that ``when`` tells from their arguments."""
    real = getattr(owner, name)

    def function(*args, **kwargs):
        if when(*args):
            raise error
        return real(*args, **kwargs)

    with mock.patch.object(owner, name, function):
        yield


@contextmanager
def preceded(owner, name, action):
    """Do something just before each call of a function, given its first argument."""
    real = getattr(owner, name)

    def function(argument, *args, **kwargs):
        action(argument)
        return real(argument, *args, **kwargs)

    with mock.patch.object(owner, name, function):
        yield


class MaildirContract(MailboxContract):
    """What MaildirMaildrops must do, wherever it blocks."""

    options = {}

    def make_factory(self, messages):
        """Write the messages, every other one into cur/."""
        self.root = self.mktemp()
        os.makedirs(self.root)
        for user, delivered in messages.items():
            for folder in (b"new", b"cur", b"tmp"):
                os.makedirs(os.path.join(os.fsencode(self.root), user, folder))
            for serial, message in enumerate(delivered):
                name = b"cur/%d.x:2,S" if serial % 2 else b"new/%d.x"
                path = os.path.join(os.fsencode(self.root), user, name % serial)
                with open(path, "wb") as file:
                    file.write(message)
        return MaildirMaildrops(self.root, **self.options)

    def remove_externally(self, _factory, user, index):
        """Remove the message's file."""
        name = b"cur/%d.x:2,S" if index % 2 else b"new/%d.x"
        os.unlink(os.path.join(os.fsencode(self.root), user, name % index))
        return True


class ThreadedContractTests(MaildirContract, TestCase):
    """With the threads that a server has."""


class InlineContractTests(MaildirContract, TestCase):
    """Without threads."""

    options = {"run": here}


class MaildirCase(SynchronousTestCase):
    """Ann's Maildir, and what other programs do to it; no test may leave a file open."""

    def setUp(self):
        """Make an empty Maildir."""
        self.ticks = count(1)
        self.root = os.path.abspath(self.mktemp())
        self.make_maildir()
        self.maildrops = MaildirMaildrops(self.root, run=here)
        watch_descriptors(self)

    def make_maildir(self, user=b"ann"):
        """Make an empty Maildir."""
        for folder in (b"new", b"cur", b"tmp"):
            os.makedirs(self.at(folder, user))

    def at(self, name, user=b"ann"):
        """Return the path of a name in a Maildir."""
        return os.path.join(os.fsencode(self.root), user, name)

    def put(self, name, message=b"x\n", user=b"ann"):
        """Write a message into ``new/`` or ``cur/``."""
        with open(self.at(name, user), "wb") as file:
            file.write(message)

    def move(self, old, new):
        """Rename a message, and have the folders' times tell it however coarse the clock is."""
        os.rename(self.at(old), self.at(new))
        for folder in {os.path.dirname(old), os.path.dirname(new)}:
            os.utime(self.at(folder), ns=(0, next(self.ticks)))

    def reflag(self, name):
        """Change the flags of a message in cur/."""
        unique, _, flags = name.partition(b":2,")
        self.move(b"cur/" + name, b"cur/%b:2,%b" % (unique, b"" if flags else b"S"))

    def stored(self):
        """Return the names in new/ and cur/."""
        folders = (b"new", b"cur")
        return sorted(b"%b/%b" % (f, name) for f in folders for name in os.listdir(self.at(f)))

    @contextmanager
    def session(self, user=b"ann", maildrops=None):
        """Open a maildrop, and release it in the end."""
        mailbox = now((maildrops or self.maildrops).open_maildrop(user))
        try:
            yield mailbox
        finally:
            now(mailbox.release())

    def shown(self):
        """Return the messages of a session of its own, with their octets checked."""
        with self.session() as mailbox:
            messages = [read(mailbox, at) for at in range(len(mailbox.messages))]
            self.assertEqual([*mailbox.messages.octets], [*map(naive_octets, messages)])
        return messages

    def assert_refused(self, error, user=b"ann"):
        """Check that opening raises this POPError, its text the usual one; return its cause."""
        with self.assertRaises(error) as refused:
            now(self.maildrops.open_maildrop(user))
        self.assertEqual(refused.exception.text, error().text)
        return refused.exception.__cause__

    def during_scan(self, actions):
        """Have other programs act, one action after each listing of a folder."""
        real = os.scandir
        actions = iter(actions)

        @contextmanager
        def scandir(fd):
            with real(fd) as entries:
                listed = list(entries)
            next(actions, lambda: None)()
            yield listed

        return mock.patch.object(os, "scandir", scandir)


ORDERS = {
    "by time": [b"new/8.x", b"cur/9.b:2,S", b"new/10.a", b"cur/100.c:2,"],
    "then by name": [b"cur/5.A:2,", b"new/5.B", b"cur/5.a:2,RS", b"new/5.b"],
    "flags have no say": [b"cur/5.a:2,S", b"cur/5.aa:2,", b"new/5.ab"],
    "what is no time comes first": [b"new/ 3.x", b"cur/+2.x", b"new/1_0.x", b"new/Zed", b"new/1.x"],
    "nor are other scripts' digits": ["new/\u0663.x".encode(), b"new/1.x"],
    "a time may be all there is": [b"new/6.x", b"new/7", b"cur/8:2,"],
    "zeros may lead": [b"new/7.x", b"new/008.x", b"new/9.x"],
    "more than 19 digits are no time": [b"new/%b.a" % (b"1" * n) for n in (20, 240, 1, 19)],
}


class OrderTests(MaildirCase):
    """Messages come by the time that their names start with, then by name."""

    def test_orders(self):
        """The order is that of the table, however the files came to be."""
        for rule, names in ORDERS.items():
            user = rule.encode()
            self.make_maildir(user)
            for name in reversed(names):
                self.put(name, name, user)
            with self.session(user) as mailbox:
                order = [read(mailbox, at) for at in range(len(mailbox.messages))]
            self.assertEqual(order, names, rule)

    def test_many(self):
        """A big maildrop is in order, and its snapshot takes few bytes a message."""
        messages = 20_000
        names = [b"%d.M%06dP1234.host.example.org" % (999_990_000 + n, n) for n in range(messages)]
        for n in range(messages):
            name = names[n * 7919 % messages]
            os.close(os.open(self.at(b"cur/%b:2,S" % name), os.O_CREAT | os.O_WRONLY))
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        before, _ = tracemalloc.get_traced_memory()
        with self.session() as mailbox:
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
            self.assertEqual(list(mailbox.messages.uids), names)
        self.assertLess((after - before) / messages, 250)


class UniqueIdTests(MaildirCase):
    """A unique-id is the unique part of the name, or a digest of it (RFC 1725 section 7)."""

    def test_legal(self):
        """A name of 1 to 70 bytes from 0x21 to 0x7E is its unique-id."""
        for name in (b"1.a", b"1." + b"a" * 68, b"!\"#$%&'()*+,-;<=>?@[\\]^_`{|}~", b"2.a,S=9,W=9"):
            self.put(b"new/" + name)
            with self.session() as mailbox:
                self.assertIn(name, uids(mailbox))

    def test_digests(self):
        """Any other name has a digest, which no later version may change."""
        names = [b"1." + b"a" * 69, b"1 a", b"1\xe9", b"1\n.", b"1\x7f", b"1\t", b"", b"\xff" * 250]
        for name in names:
            self.put(b"cur/" + name + b":2,")
        with self.session() as mailbox:
            digests = [blake2b(name, digest_size=20).hexdigest().encode() for name in names]
            self.assertEqual(sorted(uids(mailbox)), sorted(digests))

    def test_stable(self):
        """Neither flags nor folders change a unique-id."""
        seen = []
        self.put(b"new/1.a")
        self.put(b"new/1 b")
        for old, new in ((b"new/%b", b"cur/%b:2,"), (b"cur/%b:2,", b"cur/%b:2,RS")):
            with self.session() as mailbox:
                seen.append(uids(mailbox))
            for name in (b"1.a", b"1 b"):
                self.move(old % name, new % name)
        with self.session() as mailbox:
            self.assertEqual(seen, [uids(mailbox)] * 2)

    def test_twice(self):
        """Two files of one unique part are one message, for unique-ids are unique."""
        self.put(b"new/1.a", b"new\n")
        self.put(b"cur/1.a:2,S", b"cur, and longer\n")
        self.assertEqual(len(self.shown()), 1)

    def test_changed(self):
        """A message whose octets are no longer those that were told is not sent."""
        self.put(b"new/1.a", b"short\n")
        self.put(b"new/2.b", b"same\n")
        for change in (b"longer than before\n", b"shorter?\n"):
            with self.session() as mailbox:
                self.put(b"new/1.a", change)
                self.put(b"new/2.b", b"SAME\n")
                for _ in range(2):
                    with self.assertRaises(TryLater) as refused:
                        read(mailbox, 0)
                    self.assertIn("has changed", str(refused.exception))
                self.assertEqual(read(mailbox, 1), b"SAME\n")
            self.assertEqual(self.shown(), [change, b"SAME\n"])

    def test_twice_then_once(self):
        """Once one of two such files is gone, the octets are those of the other."""
        self.put(b"new/1.a", b"new\n")
        self.put(b"cur/1.a:2,S", b"cur, and longer\n")
        self.shown()
        os.unlink(self.at(b"cur/1.a:2,S"))
        self.assertEqual(self.shown(), [b"new\n"])


SPECIAL = {
    "a directory": os.mkdir,
    "a FIFO": os.mkfifo,
    "a socket": lambda path: os.mknod(path, stat.S_IFSOCK | 0o600),
    "a link to a file": partial(os.symlink, os.path.abspath(__file__)),
    "a dangling link": partial(os.symlink, "nowhere"),
    "a link to itself": lambda path: os.symlink(os.path.basename(path), path),
    "a link to a directory": partial(os.symlink, "/"),
}


class SpecialFileTests(MaildirCase):
    """Only regular files are mail, and nothing else is ever opened."""

    def test_folder_becomes_a_link(self):
        """A link that takes a folder's place in a session leads to nobody else's mail."""
        self.make_maildir(b"bob")
        for user in (b"ann", b"bob"):
            self.put(b"cur/1.x", user, user=user)
        with self.session() as mailbox:
            os.rename(self.at(b"cur"), self.at(b"away"))
            os.symlink("../bob/cur", self.at(b"cur"))
            with self.assertRaises(MaildropUnavailable):
                read(mailbox, 0)
            with self.assertRaises(RemovalFailed):
                now(mailbox.remove([mailbox.messages[0]]))
        self.assertEqual(os.listdir(self.at(b"cur", b"bob")), [b"1.x"])

    def test_idle(self):
        """A client that is logged in and does nothing takes one open file, whatever was known."""
        self.put(b"cur/1.x", b"x\n")
        for _ in range(2):
            before = len(os.listdir("/dev/fd"))
            with self.session() as mailbox:
                self.assertEqual(len(os.listdir("/dev/fd")), before + 1)
                self.assertEqual(read(mailbox, 0), b"x\n")

    def test_never_listed(self):
        """What is no regular file is no message, nor is a file with a dot in front."""
        for folder in (b"new", b"cur"):
            self.put(folder + b"/.hidden")
            self.put(folder + b"/1." + folder)
            for n, make in enumerate(SPECIAL.values()):
                make(self.at(b"%b/%d.x" % (folder, n)))
        with self.session() as mailbox:
            self.assertEqual(uids(mailbox), [b"1.cur", b"1.new"])

    def test_swapped_in_a_session(self):
        """A message that has become something else has vanished; the others are there."""
        for kind, make in SPECIAL.items():
            self.put(b"new/1.a")
            self.put(b"new/2.b", b"b\n")
            with self.session() as mailbox:
                os.unlink(self.at(b"new/1.a"))
                make(self.at(b"new/1.a"))
                with self.assertRaises(NoSuchMessage, msg=kind):
                    read(mailbox, 0)
                self.assertEqual(read(mailbox, 1), b"b\n")
            shutil.rmtree(self.at(b"new"))
            os.mkdir(self.at(b"new"))

    def test_swapped_at_login(self):
        """A file that becomes something else before it is counted is left out."""
        for make in SPECIAL.values():
            self.put(b"new/1.a")
            self.put(b"cur/2.b")

            def swap(make=make):
                os.unlink(self.at(b"new/1.a"))
                make(self.at(b"new/1.a"))

            with (
                mock.patch.object(folders.Folders, "times", return_value=[]),
                self.during_scan([swap]),
                self.session() as mailbox,
            ):
                self.assertEqual(uids(mailbox), [b"2.b"])
            shutil.rmtree(self.at(b"new"))
            os.mkdir(self.at(b"new"))


class OctetsTests(MaildirCase):
    """Octets are counted from the bytes, once a message (RFC 1725 section 10)."""

    def test_lying_names(self):
        """No size in a name is believed."""
        for n, message in enumerate(SAMPLE_MESSAGES):
            self.put(b"new/%d.x,S=1,W=1" % n, message)
            self.put(b"cur/%d.y,W=7,S=7:2,S" % n, message)
        self.assertEqual(
            self.shown(), [m for message in SAMPLE_MESSAGES for m in (message, message)]
        )

    def test_lengths(self):
        """Octets are right on either side of the lengths at which another way is taken to count."""
        for n, edge in enumerate((counting.SMALL_MESSAGE, counting.CHUNK)):
            for length in range(edge - 2, edge + 3):
                for m, line in enumerate((b"x\n", b"x\r\n", b"\xe9\n")):
                    message = (line * edge)[:length]
                    self.put(b"new/16000000%d%d.%d" % (n, m, length), message)
        self.assertEqual(len(self.shown()), 2 * 5 * 3)

    def test_changing(self):
        """A message that grows or shrinks while it is counted is counted as it is then."""
        for after in (b"longer than before\n", b"x\n", b""):
            self.maildrops = MaildirMaildrops(self.root, run=here)
            self.put(b"new/1.a", b"before\n")
            real = os.fstat

            def fstat(fd, real=real, after=after):
                found = real(fd)
                if stat.S_ISREG(found.st_mode) and found.st_size == len(b"before\n"):
                    self.put(b"new/1.a", after)
                return found

            with mock.patch.object(os, "fstat", fstat), self.session() as mailbox:
                self.assertEqual([*mailbox.messages.octets], [naive_octets(after)])
            self.assertEqual(self.shown(), [after])

    def test_counted_once(self):
        """A later login reads what was delivered since, and nothing else."""
        self.put(b"new/1.a")
        self.put(b"cur/2.b:2,")
        self.assertEqual(sorted(self.read_at_logins(b"ann")), [b"1.a", b"2.b:2,"])
        self.move(b"new/1.a", b"cur/1.a:2,S")
        self.put(b"new/3.c")
        self.assertEqual(self.read_at_logins(b"ann", b"ann"), [b"3.c"])
        self.assertEqual(len(self.shown()), 3)

    def test_forgets_the_least_recently_used(self):
        """Octets of ``remember`` messages are kept, those of the last used maildrops."""
        for user in (b"bob", b"cid"):
            self.make_maildir(user)
        for user in (b"ann", b"bob", b"cid"):
            self.put(b"new/1." + user, user=user)
        self.maildrops = MaildirMaildrops(self.root, cache_messages=2 * 11, run=here)
        logins = (b"ann", b"bob", b"ann", b"cid", b"ann")
        self.assertEqual(self.read_at_logins(*logins), [b"1.ann", b"1.bob", b"1.cid"])
        self.assertEqual(self.read_at_logins(b"bob", b"ann"), [b"1.bob"])

    def test_gives_room_back(self):
        """What was removed takes no more room."""
        self.make_maildir(b"bob")
        self.put(b"new/1.bob", user=b"bob")
        self.put(b"new/1.a")
        self.put(b"new/2.a")
        self.maildrops = MaildirMaildrops(self.root, cache_messages=2 * 11 + 1, run=here)
        self.assertEqual(len(self.read_at_logins(b"ann")), 2)
        os.unlink(self.at(b"new/1.a"))
        self.assertEqual(self.read_at_logins(b"ann", b"bob", b"ann", b"bob"), [b"1.bob"])

    def test_too_large_to_remember(self):
        """A maildrop that has no room by itself takes none from others."""
        self.make_maildir(b"bob")
        self.put(b"new/1.bob", user=b"bob")
        for n in range(3):
            self.put(b"new/%d.a" % n)
        self.maildrops = MaildirMaildrops(self.root, cache_messages=12, run=here)
        names = self.read_at_logins(b"bob", b"ann", b"bob", b"ann", b"bob")
        self.assertEqual(names.count(b"1.bob"), 1)
        self.assertEqual(names.count(b"0.a"), 2)

    def test_remember_nothing(self):
        """Without room to remember every login counts, and counts right."""
        self.maildrops = MaildirMaildrops(self.root, cache_messages=0, run=here)
        for n, message in enumerate(SAMPLE_MESSAGES):
            self.put(b"new/%d.x" % n, message)
        for _ in range(2):
            self.assertEqual(len(self.read_at_logins(b"ann")), len(SAMPLE_MESSAGES))
            self.assertEqual(self.shown(), SAMPLE_MESSAGES)

    def test_unreadable(self):
        """A message that this server may not read is left out, with a warning."""
        self.put(b"new/1.a")
        self.put(b"new/2.b", b"b\n")
        denied = PermissionError(errno.EACCES, "denied")
        with (
            failing(os, "open", denied, lambda name, *_: name == b"1.a"),
            mock.patch.object(counting, "_log") as log,
        ):
            self.assertEqual(self.shown(), [b"b\n"])
        log.warn.assert_called_once()
        self.assertEqual(len(self.shown()), 2)

    def read_at_logins(self, *users):
        """Open and release maildrops, one after the other; return the names of the files read."""
        names = []
        with preceded(os, "open", names.append):
            for user in users:
                with self.session(user):
                    pass
        others = (b"new", b"cur", b"ann", b"bob", b"cid", os.fsencode(self.root), size_file.NAME)
        return [name for name in names if name not in others]


def tick_of(nanoseconds):
    """Give folders the times that a kernel with such a tick would, and have two be rest enough."""
    real = folders.Folders.times

    def changed(self):
        return [
            (*folder[:-2], *(at // nanoseconds * nanoseconds for at in folder[-2:]))
            for folder in real(self)
        ]

    @contextmanager
    def patched():
        with (
            mock.patch.object(folders.Folders, "times", changed),
            mock.patch.object(folders, "TRUSTED_AGE", 2 * nanoseconds),
        ):
            yield

    return patched()


def rest():
    """Wait until the times of files are old enough to be trusted, if that is a tick."""
    until = time.time_ns() + folders.CLOCK_TICK
    while time.clock_gettime_ns(folders.FILE_CLOCK) <= until:
        time.sleep(0.004)


CHANGES = {
    "a delivery": lambda case: case.put(b"new/3.c", b"third\n"),
    "a delivery among others": lambda case: case.put(b"new/1.aa"),
    "a delivery to cur": lambda case: case.put(b"cur/0.z:2,"),
    "a removal": lambda case: os.unlink(case.at(b"new/1.a")),
    "another's read": lambda case: os.rename(case.at(b"new/1.a"), case.at(b"cur/1.a:2,S")),
    "other flags": lambda case: os.rename(case.at(b"cur/2.b:2,"), case.at(b"cur/2.b:2,FS")),
    "another's replacement": lambda case: (
        case.put(b"tmp/1.aaa", b"other\n"),
        os.rename(case.at(b"tmp/1.aaa"), case.at(b"new/1.aaa")),
        os.unlink(case.at(b"new/1.a")),
    ),
    "a delivery in the past": lambda case: (
        case.put(b"new/3.c"),
        os.utime(case.at(b"new"), ns=(0, case.before)),
    ),
    "a special file": lambda case: (
        os.unlink(case.at(b"new/1.a")),
        os.mkfifo(case.at(b"new/1.a")),
    ),
    "another folder": lambda case: (
        os.rename(case.at(b"cur"), case.at(b"old")),
        os.mkdir(case.at(b"cur")),
    ),
    "no folder": lambda case: shutil.rmtree(case.at(b"cur")),
    "no Maildir": lambda case: shutil.rmtree(case.at(b"")),
    "another Maildir": lambda case: (
        shutil.rmtree(case.at(b"")),
        case.make_maildir(),
        case.put(b"new/7.g"),
    ),
    "a link to another Maildir": lambda case: (
        case.make_maildir(b"bob"),
        case.put(b"new/8.h", user=b"bob"),
        shutil.rmtree(case.at(b"")),
        os.symlink("bob", case.at(b"").rstrip(b"/")),
    ),
}


class UnchangedTests(MaildirCase):
    """What has not changed is opened from memory, and what has changed never is."""

    def setUp(self):
        """Deliver two messages, and forget what is older than a tick."""
        super().setUp()
        self.put(b"new/1.a", b"first\n")
        self.put(b"cur/2.b:2,", b"second\n")
        self.before = os.stat(self.at(b"new")).st_mtime_ns
        self.patch(folders, "TRUSTED_AGE", folders.CLOCK_TICK)

    def scans(self):
        """Open and release the maildrop; return its messages, and how many folders were listed."""
        listed = []
        with preceded(os, "scandir", listed.append), self.session() as mailbox:
            return mailbox.messages, len(listed)

    def test_unchanged(self):
        """A second login shows the same snapshot, and has looked at nothing."""
        rest()
        first, scans = self.scans()
        self.assertEqual(scans, 2)
        second, scans = self.scans()
        self.assertEqual(scans, 0)
        self.assertIs(second, first)
        self.assertEqual(self.shown(), [b"first\n", b"second\n"])

    def test_without_threads(self):
        """It needs no thread when the kernel can tell that no disk must be waited for."""
        if not can_open_cached(self.root):
            self.skipTest("not for this system")
        runs = []

        async def run(function, *args):
            runs.append(function)
            return function(*args)

        self.maildrops = MaildirMaildrops(self.root, run=run)
        rest()
        for _ in range(20):
            self.scans()
        self.assertLess(len(runs), 20)

    def test_cold(self):
        """If it cannot tell, be it of the first directory or of the last, a thread looks."""
        rest()
        first, _ = self.scans()
        for code in (errno.EAGAIN, errno.ENOSYS, errno.EPERM):
            for at in range(4):
                calls = count()
                cold = failing(
                    cached_open,
                    "_SYSCALL",
                    OSError(code, "no"),
                    lambda *_, at=at, n=calls: next(n) == at,
                )
                with cold:
                    messages, scans = self.scans()
                self.assertIs(messages, first)
                self.assertEqual(scans, 0)

    def test_not_local(self):
        """On file systems that may ask others only a thread looks."""
        with mock.patch.object(folders, "is_local_filesystem", return_value=False):
            rest()
            first, _ = self.scans()
            with failing(cached_open, "_SYSCALL", AssertionError("asked")):
                self.assertIs(self.scans()[0], first)

    def test_locked(self):
        """It is locked like any other, and refused while it is."""
        rest()
        self.scans()
        with self.session():
            self.assertIsNone(self.assert_refused(MaildropBusy))
        with self.session(maildrops=MaildirMaildrops(self.root, run=here)):
            self.assertIsNone(self.assert_refused(MaildropBusy))

    def test_changes(self):
        """After any change a login shows what a store shows that remembers nothing."""
        for change, act in CHANGES.items():
            rest()
            self.scans()
            self.assertEqual(self.scans()[1], 0, change)
            act(self)
            plain = MaildirMaildrops(self.root, cache_messages=0, run=here)
            for _ in range(2):
                with self.session(maildrops=plain) as mailbox:
                    wanted = list(mailbox.messages)
                with self.session() as mailbox:
                    self.assertEqual(list(mailbox.messages), wanted, change)
                    for at in range(len(wanted)):
                        read(mailbox, at)
                rest()
            shutil.rmtree(self.root)
            self.make_maildir()
            self.put(b"new/1.a", b"first\n")
            self.put(b"cur/2.b:2,", b"second\n")
            self.before = os.stat(self.at(b"new")).st_mtime_ns

    def test_folder_made_later(self):
        """A folder that was not there is looked for at each login."""
        os.unlink(self.at(b"new/1.a"))
        os.rmdir(self.at(b"new"))
        rest()
        self.assertEqual([len(self.scans()[0]) for _ in range(2)], [1, 1])
        os.mkdir(self.at(b"new"))
        rest()
        self.assertEqual([len(self.scans()[0]) for _ in range(2)], [1, 1])
        self.put(b"new/1.a")
        self.assertEqual(len(self.scans()[0]), 2)

    def test_own_removal(self):
        """What a session removed is not shown again, to the user or to another of that Maildir."""
        os.symlink("ann", self.at(b"", b"bob").rstrip(b"/"))
        rest()
        for _ in range(2):
            with self.session(b"bob") as mailbox:
                self.assertEqual(len(mailbox.messages), 2)
            self.scans()
        with self.session() as mailbox:
            now(mailbox.remove([mailbox.messages[0]]))
        for user in (b"ann", b"bob"):
            with self.session(user) as mailbox:
                self.assertEqual(uids(mailbox), [b"2.b"])

    def test_times_to_come(self):
        """Folders from the future are listed at each login: their next time may be the same."""
        for name in (b"new", b"cur"):
            os.utime(self.at(name), ns=(0, time.time_ns() + 10**12))
        rest()
        self.assertEqual([self.scans()[1] for _ in range(3)], [2, 2, 2])

    def test_left_out(self):
        """A message that could not be read is tried again, though no folder changes by chmod."""
        denied = PermissionError(errno.EACCES, "denied")
        rest()
        with failing(os, "open", denied, lambda name, *_: name == b"1.a"):
            self.assertEqual(len(self.scans()[0]), 1)
        self.assertEqual(len(self.scans()[0]), 2)

    def test_vanishing(self):
        """A file that is listed but not there is looked for again by the next login."""
        rest()
        gone = FileNotFoundError(errno.ENOENT, "gone")
        with failing(os, "open", gone, lambda name, *_: name == b"1.a"):
            self.assertEqual(len(self.scans()[0]), 1)
        self.assertEqual(len(self.scans()[0]), 2)

    def test_twice(self):
        """Of a maildrop with two files of one unique part nothing is kept."""
        self.put(b"cur/1.a:2,S")
        rest()
        self.assertEqual([self.scans()[1] for _ in range(2)], [2, 2])

    def test_rewritten(self):
        """A message rewritten in place is refused once, and right from then on."""
        rest()
        self.scans()
        self.put(b"new/1.a", b"rewritten\n")
        with self.session() as mailbox, self.assertRaises(TryLater):
            read(mailbox, 0)
        self.assertEqual(self.shown(), [b"rewritten\n", b"second\n"])

    def test_listings(self):
        """Listings are made once for all sessions, and what comes behind costs no line again."""
        self.patch(snapshot, "_LINES_A_CHUNK", 2)
        self.put(b"new/3.c")
        seen = []
        for delivered in (b"new/4.d", None):
            rest()
            for _ in range(2):
                with self.session() as mailbox:
                    view = Maildrop(mailbox.messages)
                    seen.append([*view.scan_listing(), *view.unique_id_listing()])
            if delivered:
                self.put(delivered)
        for one, other in zip(*seen[:2], strict=True):
            self.assertIs(one, other)
        self.assertEqual([a is b for a, b in zip(*seen[1:3], strict=True)], [True, False] * 2)

    def test_memory_of_nothing(self):
        """Maildrops without messages take room, too."""
        cache = IndexCache(25)
        users = (b"bob", b"cid", b"dan")
        for user in users:
            cache.put(user, empty_index())
        self.assertEqual([user for user in users if cache.get(user)], [b"cid", b"dan"])


class TickTests(MaildirCase):
    """No change is missed that comes within the clock tick of a scan."""

    def check(self, pauses):
        """Change the Maildir and scan it, again and again, with a pause between."""
        for name in os.listdir(self.at(b"new")):
            os.unlink(self.at(b"new/" + name))
        names = [b"0.first"]
        self.put(b"new/0.first")
        for n, pause in enumerate(pauses, 1):
            time.sleep(pause)
            with self.session() as mailbox:
                self.assertEqual(uids(mailbox), names)
            names.append(b"%d.x" % n)
            self.put(b"new/" + names[-1])
            if len(names) > 3:
                os.unlink(self.at(b"new/" + names.pop(0)))

    def test_at_once(self):
        """A delivery follows each scan at once, thousands of times, with a tick of 4 ms or 1 s."""
        for tick in (4_000_000, 1_000_000_000):
            with tick_of(tick):
                self.check([0] * 2000)

    def test_at_the_edge(self):
        """Scans that are just trusted, or just not, miss nothing either."""
        with tick_of(4_000_000):
            self.check(n / 50_000 for n in range(300, 500))


MOVES = [
    (b"new/1.a", b"cur/1.a:2,"),
    (b"new/1.a", b"cur/1.a:2,RS"),
    (b"cur/1.a:2,", b"cur/1.a:2,S"),
    (b"cur/1.a:2,S", b"cur/1.a:2,"),
    (b"cur/1.a:2,S", b"cur/1.a"),
    (b"cur/1.a:2,", b"new/1.a"),
]


class RenameTests(MaildirCase):
    """Other programs rename as they please: a message is found again by its unique part."""

    def test_before_reading(self):
        """A message renamed since the login is read where it is."""
        for old, new in MOVES:
            self.put(old)
            with self.session() as mailbox:
                self.move(old, new)
                self.assertEqual(read(mailbox, 0), b"x\n", new)
            os.unlink(self.at(new))

    def test_new_before_cur(self):
        """Folders are listed in the order in which messages move, whichever was used first."""
        self.put(b"new/1.a")
        self.put(b"cur/2.b:2,")
        listed = []
        with self.session() as mailbox:
            read(mailbox, 1)
            self.move(b"new/1.a", b"cur/1.a:2,S")
            with preceded(os, "scandir", lambda fd: listed.append(os.fstat(fd).st_ino)):
                self.assertEqual(read(mailbox, 0), b"x\n")
        folders = [os.stat(self.at(name)).st_ino for name in (b"new", b"cur")]
        self.assertEqual(listed[:2], folders)

    def test_before_removal(self):
        """A message renamed since the login is removed all the same (RFC 1725 section 6)."""
        for old, new in MOVES:
            self.put(old)
            with self.session() as mailbox:
                self.move(old, new)
                now(mailbox.remove(mailbox.messages))
            self.assertEqual(self.stored(), [], new)

    def test_during_removal(self):
        """Messages renamed under a removal's hands are removed all the same."""
        for name in (b"1.a:2,", b"2.b:2,", b"3.c:2,"):
            self.put(b"cur/" + name)
        untouched = {b"1.a:2,", b"2.b:2,", b"3.c:2,"}

        def reflag_once(name):
            if name in untouched:
                untouched.remove(name)
                self.reflag(name)

        with self.session() as mailbox, preceded(os, "unlink", reflag_once):
            now(mailbox.remove(mailbox.messages))
        self.assertEqual((self.stored(), untouched), ([], set()))

    def test_during_removal_for_ever(self):
        """A removal that other programs always forestall gives up and says so."""
        self.put(b"cur/1.a:2,")
        self.put(b"cur/2.b:2,")
        with self.session() as mailbox:
            with preceded(os, "unlink", self.reflag), self.assertRaises(RemovalFailed) as failed:
                now(mailbox.remove(mailbox.messages))
            self.assertEqual(failed.exception.remaining, 2)
        self.assertEqual(len(self.stored()), 2)

    def test_during_scan(self):
        """A message renamed while folders are listed is seen once, and found."""
        for old, new in MOVES:
            for listings in range(3):
                self.put(old)
                others = [lambda: None] * listings
                move = partial(self.move, old, new)
                with self.during_scan([*others, move]), self.session() as mailbox:
                    self.assertEqual(uids(mailbox), [b"1.a"], (new, listings))
                    self.assertEqual(read(mailbox, 0), b"x\n")
                    now(mailbox.remove(mailbox.messages))
                self.assertEqual(self.stored(), [], (new, listings))

    def test_before_counting(self):
        """A message renamed between listing and counting is looked for again."""
        self.put(b"cur/1.a:2,")
        move = partial(self.move, b"cur/1.a:2,", b"cur/1.a:2,S")
        with (
            mock.patch.object(folders.Folders, "times", return_value=[]),
            self.during_scan([lambda: None, move]),
            self.session() as mailbox,
        ):
            self.assertEqual(read(mailbox, 0), b"x\n")

    def test_during_scan_for_ever(self):
        """A folder that never rests is listed all the same; what cannot be caught is left out."""
        self.put(b"new/1.a")
        self.put(b"cur/2.b:2,")
        moves = [(b"cur/2.b:2,", b"cur/2.b:2,S"), (b"cur/2.b:2,S", b"cur/2.b:2,")]
        # The scan lists new/ and cur/ in turn; only behind cur/ is the message renamed.
        restless = chain.from_iterable(
            (lambda: None, partial(self.move, *moves[n % 2])) for n in count()
        )
        with self.during_scan(restless), self.session() as mailbox:
            self.assertEqual(uids(mailbox), [b"1.a"])

    def test_vanished(self):
        """A message that another program removed cannot be read, at the first try or later."""
        self.put(b"new/1.a")
        with self.session() as mailbox:
            os.unlink(self.at(b"new/1.a"))
            for _ in range(2):
                with self.assertRaises(NoSuchMessage):
                    read(mailbox, 0)
            now(mailbox.remove(mailbox.messages))


class RemovalTests(MaildirCase):
    """+OK to QUIT means that everything marked is gone for good (RFC 1725 section 6)."""

    def setUp(self):
        """Deliver three messages."""
        super().setUp()
        self.names = [b"cur/2.b:2,", b"new/1.a", b"new/3.c"]
        for name in self.names:
            self.put(name)

    def test_partial(self):
        """What cannot be removed is counted, and the rest is removed."""
        for code in (errno.EACCES, errno.EPERM, errno.EROFS):
            for name in self.names:
                self.put(name)
            denied = OSError(code, "denied")
            with self.session() as mailbox:
                with (
                    failing(os, "unlink", denied, lambda name: name == b"2.b:2,"),
                    self.assertRaises(RemovalFailed) as failed,
                ):
                    now(mailbox.remove(mailbox.messages))
                self.assertEqual(failed.exception.remaining, 1)
                self.assertIs(failed.exception.__cause__, denied)
            self.assertEqual(self.stored(), [b"cur/2.b:2,"])

    def test_look_again_fails(self):
        """If a renamed message cannot be looked for, it remains and is counted."""
        with self.session() as mailbox:
            self.move(b"cur/2.b:2,", b"cur/2.b:2,S")
            with (
                failing(os, "scandir", OSError(errno.EMFILE, "too many")),
                self.assertRaises(RemovalFailed) as failed,
            ):
                now(mailbox.remove(mailbox.messages))
            self.assertEqual(failed.exception.remaining, 1)
        self.assertEqual(self.stored(), [b"cur/2.b:2,S"])

    def test_durable(self):
        """Both folders are written to disk, after everything is removed."""
        synced = []

        def fsync(fd):
            synced.append((os.fstat(fd).st_ino, self.stored()))

        with self.session() as mailbox, mock.patch.object(os, "fsync", fsync):
            now(mailbox.remove(mailbox.messages))
        inodes = [os.stat(self.at(folder)).st_ino for folder in (b"new", b"cur")]
        self.assertEqual(synced, [(inode, []) for inode in inodes])

    def test_not_durable(self):
        """A removal that cannot be made durable is no success."""
        with (
            self.session() as mailbox,
            failing(os, "fsync", OSError(errno.EIO, "broken")),
            self.assertRaises((OSError, RemovalFailed)),
        ):
            now(mailbox.remove(mailbox.messages))

    def test_folder_made_later(self):
        """A folder that another program makes in mid-session is looked in, too."""
        shutil.rmtree(self.at(b"cur"))
        with self.session() as mailbox:
            os.mkdir(self.at(b"cur"))
            self.move(b"new/1.a", b"cur/1.a:2,S")
            read(mailbox, 0)
            now(mailbox.remove(mailbox.messages))
        self.assertEqual(self.stored(), [])

    def test_renamed_without_end(self):
        """While others rename without a pause, what is not found is not said to be removed."""
        with self.session() as mailbox:
            os.rename(self.at(b"cur/2.b:2,"), self.at(b"tmp/2.b"))
            with (
                mock.patch.object(folders.Folders, "times", lambda _: [(next(self.ticks),) * 2]),
                mock.patch.object(removal, "RETRY_DELAYS", (0, 0)),
                self.assertRaises(RemovalFailed) as failed,
            ):
                now(mailbox.remove(mailbox.messages))
            self.assertEqual(failed.exception.remaining, 1)

    def test_renamed_just_now(self):
        """A change in the clock tick of the scan may go unseen: not found is not gone then."""
        with self.session() as mailbox:
            os.rename(self.at(b"cur/2.b:2,"), self.at(b"tmp/2.b"))
            with (
                mock.patch.object(folders.Folders, "times", return_value=[(time.time_ns(),) * 2]),
                mock.patch.object(removal, "RETRY_DELAYS", (0, 0)),
                self.assertRaises(RemovalFailed) as failed,
            ):
                now(mailbox.remove(mailbox.messages))
            self.assertEqual(failed.exception.remaining, 1)

    def test_other_of_two(self):
        """Of two files with one unique part, the one that was not shown is not removed."""
        self.put(b"new/5.dup", b"never seen\n")
        self.put(b"cur/5.dup:2,S", b"shown\n")
        with self.session() as mailbox:
            os.unlink(self.at(b"cur/5.dup:2,S"))
            with self.assertRaises(RemovalFailed):
                now(mailbox.remove(mailbox.messages))
        self.assertEqual(self.stored(), [b"new/5.dup"])

    def test_came_back(self):
        """A message that vanished and came back is there to be removed."""
        with self.session() as mailbox:
            self.move(b"new/1.a", b"tmp/1.a")
            with self.assertRaises(NoSuchMessage):
                read(mailbox, 0)
            self.move(b"tmp/1.a", b"cur/1.a:2,")
            now(mailbox.remove(mailbox.messages))
        self.assertEqual(self.stored(), [])

    def test_read_only(self):
        """A Maildir that cannot be written to can be read."""
        closed = [self.at(folder) for folder in (b"new", b"cur", b"")]
        for path in [*map(self.at, self.names), *closed]:
            self.addCleanup(os.chmod, path, 0o700)
            os.chmod(path, 0o555 if path in closed else 0o444)
        # What trial makes is closed to others.
        os.chmod(os.path.dirname(self.root), 0o711)
        self.patch(index, "SAVE_THRESHOLD", 1)
        with self.nobody(), mock.patch.object(counting, "_log") as log:
            self.assertEqual(self.shown(), [b"x\n"] * 3)
            self.maildrops = MaildirMaildrops(self.root, run=here)
            self.assertEqual(self.shown(), [b"x\n"] * 3)
            self.assertEqual(log.mock_calls, [])
            with self.session() as mailbox, self.assertRaises(RemovalFailed) as failed:
                now(mailbox.remove(mailbox.messages))
        self.assertEqual(failed.exception.remaining, 3)
        self.assertEqual(self.stored(), self.names)
        self.assertEqual(sorted(os.listdir(self.at(b""))), [b"cur", b"new", b"tmp"])

    @contextmanager
    def nobody(self):
        """Be a user without privileges."""
        if os.geteuid():
            yield
            return
        os.seteuid(NOBODY)
        try:
            if not os.access(self.root, os.X_OK, effective_ids=True):
                self.skipTest("another user cannot reach this directory")
            yield
        finally:
            os.seteuid(0)


class RefusalTests(MaildirCase):
    """What cannot be opened is refused with a reason for the log and none for the client."""

    def test_no_maildrop(self):
        """A user to whom nothing was ever delivered has an empty mailbox."""
        with self.session(b"bob") as mailbox:
            self.assertEqual(len(mailbox.messages), 0)
            with self.assertRaises(NoSuchMessage):
                now(mailbox.open(Message(1, b"x", 0)))
            now(mailbox.remove([]))

    def test_missing_folders(self):
        """A folder that is not there holds nothing."""
        for missing in ([b"new"], [b"cur"], [b"new", b"cur"]):
            left = {b"new", b"cur"} - set(missing)
            for folder in left:
                self.put(folder + b"/1.a")
            for folder in missing:
                os.rmdir(self.at(folder))
            self.assertEqual(len(self.shown()), len(left), missing)
            with self.session() as mailbox:
                now(mailbox.remove(mailbox.messages))
            for folder in missing:
                os.mkdir(self.at(folder))

    def test_strange_folders(self):
        """A folder that is a link is not followed, nor is anything else that is no directory."""
        for folder in (b"new", b"cur"):
            for kind, make in {**SPECIAL, "a link to tmp": partial(os.symlink, "tmp")}.items():
                if make is os.mkdir:
                    continue
                os.rmdir(self.at(folder))
                make(self.at(folder))
                self.assertIsInstance(self.assert_refused(MaildropUnavailable), OSError, kind)
                os.unlink(self.at(folder))
                os.mkdir(self.at(folder))

    def test_strange_maildrops(self):
        """What is no directory is no maildrop, nor is what has no name for one."""
        os.mknod(os.path.join(self.root, "file"))
        os.symlink("nowhere", os.path.join(self.root, "dangling"))
        for user, cause in {
            b"file": NotADirectoryError,
            b"dangling": NotADirectoryError,
            b"a" * 300: OSError,
            b"../ann": ValueError,
        }.items():
            self.assertIsInstance(self.assert_refused(MaildropUnavailable, user), cause)

    def test_no_root(self):
        """Without its root no user's maildrop is empty."""
        self.maildrops = MaildirMaildrops(self.root + "/nowhere", run=here)
        self.assertIsInstance(self.assert_refused(MaildropUnavailable), NotADirectoryError)

    def test_failures(self):
        """What the system says decides: to be mended, or to be tried again; no file stays open."""
        self.put(b"new/1.a")
        lasting = {errno.EACCES, errno.EPERM, errno.EIO}
        passing = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOLCK, errno.ESTALE}
        places = {
            "root": (os, "open", lambda name, *_: name == os.fsencode(self.root)),
            "maildrop": (os, "open", lambda name, *_: name == b"ann"),
            "new": (os, "open", lambda name, *_: name == b"new"),
            "cur": (os, "open", lambda name, *_: name == b"cur"),
            "lock": (folders.fcntl, "flock", lambda *_: True),
            "scan": (os, "scandir", lambda *_: True),
            "message": (os, "open", lambda name, *_: name == b"1.a"),
            "bytes": (os, "read", lambda *_: True),
        }
        for place, (owner, name, when) in places.items():
            for code in lasting | passing:
                if place == "message" and code in (errno.EACCES, errno.EPERM):
                    continue
                error = OSError(code, "secret")
                refusal = TryLater if code in passing else MaildropUnavailable
                with failing(owner, name, error, when):
                    self.assertIs(self.assert_refused(refusal), error, (place, code))
        self.assertEqual(len(self.shown()), 1)

    def test_denied_later(self):
        """A message that may not be read any more is not said to have vanished."""
        self.put(b"new/1.a")
        denied = PermissionError(errno.EACCES, "denied")
        with (
            self.session() as mailbox,
            failing(os, "open", denied),
            self.assertRaises(MaildropUnavailable) as refused,
        ):
            read(mailbox, 0)
        self.assertIs(refused.exception.__cause__, denied)

    def test_no_maildrop_twice(self):
        """A user without a maildrop has one session at a time, too: they are not for hoarding."""
        with self.session(b"nobody"):
            self.assert_refused(MaildropBusy, b"nobody")
        with self.session(b"nobody") as mailbox:
            self.assertEqual(len(mailbox.messages), 0)
            with self.assertRaises(NoSuchMessage):
                now(mailbox.open(Message(1, b"x", 0)))
            now(mailbox.remove([]))


HOLDER = f"""
import asyncio, sys
from popserv.maildrops.maildir.store import MaildirMaildrops

{getsource(here)}

asyncio.run(MaildirMaildrops(sys.argv[1], run=here).open_maildrop(b"ann"))
print("locked", flush=True)
sys.stdin.read()
"""


class LockTests(MaildirCase):
    """One session at a time, in whatever process (RFC 1725 section 4)."""

    @contextmanager
    def holder(self):
        """Have another process hold the lock."""
        command = [sys.executable, "-c", HOLDER, self.root]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(command, env=environment, **pipes) as process:
            self.assertEqual(process.stdout.readline(), b"locked\n")
            yield process

    def test_within_a_process(self):
        """Another factory in this process is refused until the lock is given up."""
        other = MaildirMaildrops(self.root, run=here)
        with self.session():
            self.assertIsNone(self.assert_refused(MaildropBusy))
            with self.assertRaises(MaildropBusy), self.session(maildrops=other):
                pass
        with self.session(maildrops=other):
            self.assert_refused(MaildropBusy)

    def test_across_processes(self):
        """Another process's session is respected to its end."""
        with self.holder() as process:
            self.assert_refused(MaildropBusy)
            process.communicate()
            self.assertEqual(self.shown(), [])

    def test_killed(self):
        """A process that is killed holds nothing."""
        with self.holder() as process:
            process.kill()
            process.wait()
            self.assertEqual(self.shown(), [])

    def test_failed_opening(self):
        """A maildrop that could not be opened is not locked."""
        with failing(os, "scandir", OSError(errno.EIO, "broken")):
            self.assert_refused(MaildropUnavailable)
        self.assertEqual(self.shown(), [])

    def test_untouched(self):
        """A session that only reads leaves a Maildir as it was: no lock file, no rename."""
        self.put(b"new/1.a")
        before = [os.stat(self.at(folder)).st_mtime_ns for folder in (b"", b"new", b"cur", b"tmp")]
        self.shown()
        after = [os.stat(self.at(folder)).st_mtime_ns for folder in (b"", b"new", b"cur", b"tmp")]
        self.assertEqual(after, before)


class SizesFileTests(MaildirCase):
    """What was counted is known to the server's next run, and never believed too much."""

    names = [b"cur/1600000002.b:2,S", b"new/1600000001.a", b"new/1600000003.c"]

    def setUp(self):
        """Deliver three messages, which are worth a file."""
        super().setUp()
        self.patch(index, "SAVE_THRESHOLD", 2)
        self.patch(folders, "TRUSTED_AGE", folders.CLOCK_TICK)
        for name in self.names:
            self.put(name, name + b"\n")
        self.file = self.at(size_file.NAME)

    def restart(self):
        """Know nothing but what is in files."""
        self.maildrops = MaildirMaildrops(self.root, run=here)

    def opened(self):
        """Return the names of what a session of a new server opens, the Maildir's parts aside."""
        self.restart()
        names = []
        with preceded(os, "open", names.append), self.session():
            pass
        return [name for name in names if name[:1].isdigit()]

    def listing(self, maildrops=None):
        """Return all that a session shows."""
        with self.session(maildrops=maildrops) as mailbox:
            return list(mailbox.messages), list(mailbox.messages.sizes())

    def assert_right(self):
        """Check that a new server shows what one does that has nothing but the mail."""
        self.restart()
        shown = self.listing()
        self.restart()
        with mock.patch.object(size_file, "load", return_value=None):
            self.assertEqual(shown, self.listing())

    def test_restart(self):
        """After a restart nothing is counted, and nothing listed that has not changed."""
        rest()
        first = self.listing()
        self.restart()
        with (
            failing(os, "scandir", AssertionError("listed")),
            failing(os, "open", AssertionError("read"), lambda name, *_: name in self.names),
        ):
            self.assertEqual(self.listing(), first)
        self.assertEqual(self.shown(), [name + b"\n" for name in sorted(self.names, key=by_time)])

    def test_all_is_kept(self):
        """Downgraded forms and headers without end are known after a restart, too."""
        self.put(b"new/1600000004.d", "Subject: \u00e4\n\nx\n".encode())
        self.put(b"new/1600000005.e", "Subject: \u00e4\n\n".encode() * 2)
        self.put(b"new/1600000006.f", b"\xff\n" * 100_000)
        first = self.listing()
        self.assertEqual(self.opened(), [])
        self.assertEqual(self.listing(), first)

    def test_fresh(self):
        """What came since is counted, what went is gone, and what was renamed is found."""
        self.listing()
        self.put(b"new/1600000000.z")
        os.unlink(self.at(self.names[0]))
        os.rename(self.at(self.names[1]), self.at(b"cur/1600000001.a:2,FS"))
        self.assertEqual(self.opened(), [b"1600000000.z"])
        self.assert_right()
        self.assertEqual(self.shown(), [b"x\n", b"new/1600000001.a\n", b"new/1600000003.c\n"])

    def test_any_byte(self):
        """Whatever byte of it is wrong, and wherever it ends, all is shown as if it were not."""
        rest()
        first = self.listing()
        with open(self.file, "rb") as file:
            whole = file.read()
        for at in range(len(whole)):
            flipped = whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :]
            for data in (flipped, whole[:at]):
                # To write over a file may wait for the disk.
                os.unlink(self.file)
                with open(self.file, "wb") as file:
                    file.write(data)
                self.restart()
                self.assertEqual(self.listing(), first, at)
        self.assertEqual(self.shown(), [name + b"\n" for name in sorted(self.names, key=by_time)])

    def test_not_worth_it(self):
        """There is no file of a few messages, nor is one written for a few more."""
        self.patch(index, "SAVE_THRESHOLD", 4)
        self.listing()
        self.assertFalse(os.path.exists(self.file))
        self.put(b"new/1600000004.d")
        self.listing()
        rest()
        self.listing()
        before = os.stat(self.file)
        for n in range(3):
            self.put(b"new/160000001%d.x" % n)
            self.listing()
        self.assertEqual(os.stat(self.file).st_ino, before.st_ino)
        self.assertEqual(len(self.opened()), 3)
        self.put(b"new/1600000020.x")
        self.listing()
        self.assertEqual(self.opened(), [])

    def test_times_later(self):
        """A file without times is written anew once there are some, and then no more."""
        self.listing()
        rest()
        inodes = []
        with preceded(os, "rename", inodes.append):
            for _ in range(3):
                self.listing()
                self.restart()
                with self.session():
                    pass
        self.assertLessEqual(len(inodes), 1)
        with failing(os, "scandir", AssertionError("listed")):
            self.listing()

    def test_removed(self):
        """Messages that a session removes are not worth a file, and a file of none is removed."""
        with self.session() as mailbox:
            now(mailbox.remove(mailbox.messages[:2]))
        self.assertFalse(os.path.exists(self.file))
        for n in range(2):
            self.put(b"new/160000001%d.x" % n)
        self.listing()
        self.assertTrue(os.path.exists(self.file))
        with self.session() as mailbox:
            now(mailbox.remove(mailbox.messages))
        self.listing()
        self.assertFalse(os.path.exists(self.file))
        self.assertEqual(self.opened(), [])

    def test_replaced(self):
        """A message replaced behind the file's back is refused once, and right ever after."""
        for restarts in (False, True):
            self.listing()
            self.put(self.names[1], b"replaced" * (9 + restarts))
            self.restart()
            with self.session() as mailbox, self.assertRaises(TryLater):
                read(mailbox, 0)
            self.assertFalse(os.path.exists(self.file))
            if restarts:
                self.restart()
            self.assertEqual(self.shown()[0], b"replaced" * (9 + restarts))
            self.assert_right()

    def test_cannot_be_removed(self):
        """A file that was wrong and cannot be removed is believed no more."""
        self.listing()
        self.put(self.names[1], b"replaced\n")
        self.restart()
        denied = OSError(errno.EROFS, "read-only")
        self.maildrops = MaildirMaildrops(self.root, cache_messages=0, run=here)
        with failing(os, "unlink", denied), failing(os, "rename", denied):
            with self.session() as mailbox, self.assertRaises(TryLater):
                read(mailbox, 0)
            for _ in range(2):
                self.assertEqual(self.shown()[0], b"replaced\n")

    def test_same_octets(self):
        """A message replaced by one of the same octets is sent, the file being what it is."""
        self.listing()
        self.put(self.names[1], b"new/1600000001.A\n")
        os.utime(self.at(self.names[1]), ns=(0, 0))
        self.restart()
        with self.session() as mailbox:
            self.assertEqual(read(mailbox, 0), b"new/1600000001.A\n")
        self.assert_right()

    def test_twice(self):
        """Of a maildrop with two files of one unique part no file is written, nor one believed."""
        self.listing()
        self.put(b"cur/1600000001.a:2,S", b"another one\n")
        self.assert_right()
        os.unlink(self.file)
        self.restart()
        self.listing()
        self.assertFalse(os.path.exists(self.file))

    def test_other_folder(self):
        """Times that tell of another folder are nothing, though all names are the same."""
        rest()
        self.listing()
        for folder in (b"new", b"cur"):
            shutil.copytree(self.at(folder), self.at(b"tmp/x"))
            shutil.rmtree(self.at(folder))
            os.rename(self.at(b"tmp/x"), self.at(folder))
        os.unlink(self.at(self.names[2]))
        self.assert_right()
        self.assertEqual(len(self.shown()), 2)

    def test_no_room(self):
        """A file that cannot be written is no matter, and not tried again at each session."""
        for name in ("open", "write", "rename"):
            self.restart()
            error = OSError(errno.ENOSPC, "full")
            tried = []

            def is_ours(first, *_, name=name, tried=tried):
                ours = name == "write" or first == size_file._UNFINISHED
                tried.extend([1] * ours)
                return ours

            with failing(os, name, error, is_ours), mock.patch.object(counting, "_log") as log:
                for _ in range(3):
                    self.listing()
            self.assertEqual((len(tried), log.mock_calls), (1, []))
            self.assertEqual(os.listdir(self.at(b"")).count(size_file.NAME), 0)

    def test_warm_after_a_restart(self):
        """A maildrop from the file is opened without a thread, if its folders' disks allow it."""
        if not can_open_cached(self.root):
            self.skipTest("nothing is opened so on this file system")
        for asks in (False, True):
            self.listing()
            rest()
            self.listing()
            self.restart()
            with mock.patch.object(folders, "is_local_filesystem", return_value=not asks):
                self.listing()
            with mock.patch.object(self.maildrops, "run", side_effect=TryLater):
                if asks:
                    self.assertRaises(TryLater, self.listing)
                else:
                    self.listing()

    def test_busy(self):
        """If no thread is free when a session ends, there is no file, and the lock is given up."""

        async def run(function, *args):
            if function.__name__ == "save":
                raise TryLater
            return function(*args)

        self.maildrops = MaildirMaildrops(self.root, run=run)
        self.listing()
        self.assertFalse(os.path.exists(self.file))
        self.maildrops.run = here
        self.listing()
        self.assertTrue(os.path.exists(self.file))

    def test_under_lock(self):
        """The file is written before the lock is given up."""
        busy = []
        other = MaildirMaildrops(self.root, run=here)

        def attempt(_):
            with self.assertRaises(MaildropBusy):
                now(other.open_maildrop(b"ann"))
            busy.append(True)

        with preceded(os, "rename", attempt):
            self.listing()
        self.assertEqual(busy, [True])

    def test_links(self):
        """A link in its place is not followed, nor what it points to changed."""
        self.listing()
        os.rename(self.file, self.at(b"other"))
        os.symlink("other", self.file)
        before = os.stat(self.at(b"other"))
        self.assertEqual(len(self.opened()), 3)
        self.assertFalse(os.path.islink(self.file))
        self.assertEqual(os.stat(self.at(b"other")).st_mtime_ns, before.st_mtime_ns)


def by_time(name):
    """Return what the names of SizesFileTests are put in order by."""
    return name.partition(b"/")[2]


class BodyTests(MaildirCase):
    """A message is read in pieces: at once from memory, in a thread from disk."""

    message = b"".join(b"%d\n" % n for n in range(100_000))

    def setUp(self):
        """Deliver one big message."""
        super().setUp()
        self.put(b"new/1.a", self.message)

    @contextmanager
    def body(self):
        """Open the message, and close it in the end."""
        with self.session() as mailbox:
            body = now(mailbox.open(mailbox.messages[0]))
            try:
                # Without its close: that is called below.
                yield chain(body)
            finally:
                body.close()

    def uncached(self):
        """Have nothing in the page cache."""
        return failing(os, "preadv", BlockingIOError(errno.EAGAIN, "not there yet"))

    def test_cached(self):
        """What the page cache has is there at once."""
        real = os.preadv
        # Not every file system knows RWF_NOWAIT.
        with (
            mock.patch.object(os, "preadv", lambda fd, to, at, _flags: real(fd, to, at)),
            self.body() as body,
        ):
            self.assert_whole(list(body))

    def test_uncached(self):
        """What the page cache has not is read in a thread, one chunk at a time."""
        with self.uncached(), self.body() as body:
            self.assert_whole([now(chunk) for chunk in body])

    def test_small_uncached(self):
        """A small one that the page cache has not is read in a thread as well."""
        self.put(b"new/1.a", b"small\n")
        with self.uncached(), self.body() as body:
            self.assertEqual([now(chunk) for chunk in body], [b"small\n"])

    def assert_whole(self, chunks):
        """Check chunks and their sizes."""
        self.assertEqual(b"".join(chunks), self.message)
        self.assertEqual({len(chunk) for chunk in chunks[:-1]}, {1 << 17})
        self.assertLessEqual(len(chunks[-1]), 1 << 17)

    def test_shrunk(self):
        """A file that became shorter is an error, never a message that ends early."""
        for size in (0, 1 << 17, len(self.message) - 1):
            self.put(b"new/1.a", self.message)
            with self.body() as body:
                os.truncate(self.at(b"new/1.a"), size)
                with self.assertRaises(OSError):
                    now(read_all(body))

    def test_half_cached(self):
        """A chunk of which the page cache has a part is read in a thread, and whole."""
        with self.body() as body, mock.patch.object(os, "preadv", return_value=1):
            self.assertEqual(b"".join([now(chunk) for chunk in body]), self.message)

    def test_grown(self):
        """Of a file that became longer as much is sent as there was."""
        with self.body() as body:
            self.put(b"new/1.a", self.message + b"more\n" * 100_000)
            self.assertEqual(now(read_all(body)), self.message)

    def test_closed_early(self):
        """A body closes its file whether it is read whole, in part or not at all."""
        # That no file is left open is checked behind every test.
        for chunks in (0, 1, 2, 100):
            with self.session() as mailbox:
                body = now(mailbox.open(mailbox.messages[0]))
            now(read_all(islice(body, chunks)))
            body.close()

    def test_outlives_the_session(self):
        """A message removed, or a maildrop released, while it is read is read to its end."""
        with self.session() as mailbox:
            body = now(mailbox.open(mailbox.messages[0]))
            start = next(body)
            now(mailbox.remove(mailbox.messages))
        self.assertEqual(self.stored(), [])
        start = start if isinstance(start, bytes) else now(start)
        self.assertEqual(start + now(read_all(body)), self.message)


LINES = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"x", b"\xff"]), max_size=12).map(
    b"".join
)
NAMES = st.builds(
    b"%b%b%b".__mod__,
    st.tuples(
        st.sampled_from([b"", b"1.", b"2.", b"10.", b"x.", b"." * 2]),
        st.binary(max_size=90).map(lambda name: name.translate(None, b"/\0")),
        st.sampled_from([b"", b":2,", b":2,FS"]),
    ),
).filter(lambda name: name not in (b"", b".", b".."))


def by_unique_part(file):
    """Return what no two files of a Maildir have in common."""
    return file[1].partition(b":")[0]


def naive_listing(files):
    """Return unique-id, octets and bytes of each message, by the rules at maildir.py's head."""
    rows = []
    for _, name, message in files:
        unique = name.split(b":")[0]
        time = re.match(rb"([0-9]{1,19})(?:\.|\Z)", unique)
        uid = unique
        if not re.fullmatch(rb"[!-~]{1,70}", unique):
            uid = blake2b(unique, digest_size=20).hexdigest().encode()
        if not name.startswith(b"."):
            order = (int(time[1]) if time else 0, unique)
            rows.append((order, (uid, naive_octets(message), message)))
    return [row for _, row in sorted(rows)]


class AnyMaildirTests(MaildirCase):
    """Whatever names and bytes a Maildir holds, it is shown as the plainest code would."""

    @PATIENT
    @given(
        st.lists(
            st.tuples(st.sampled_from([b"new", b"cur"]), NAMES, LINES), unique_by=by_unique_part
        )
    )
    def test_any_files(self, files):
        """Order, unique-ids, octets and bytes are those of the naive listing."""
        user = b"u%d" % next(self.ticks)
        self.make_maildir(user)
        for folder, name, message in files:
            self.put(b"%b/%b" % (folder, name), message, user)
        with self.session(user) as mailbox:
            listing = [
                (message.uid, message.octets, read(mailbox, at))
                for at, message in enumerate(mailbox.messages)
            ]
        self.assertEqual(listing, naive_listing(files))


class Traffic:
    """One Maildir, what ought to be in it, and the programs and the session at work on it.

    Each public method is one action; its number says on which message, or how.
    """

    def __init__(self, case, user):
        """Make the user's Maildir."""
        self._case = case
        self._user = user
        self._serial = count()
        self._stored = {}
        self._mailbox = None
        self._rewritten = set()
        case.make_maildir(user)

    def deliver(self, number):
        """Deliver a message, not always the latest in order."""
        unique = b"%d.%d" % (number % 3, next(self._serial))
        self._stored[unique] = b".%b\n" % unique * (number % 4)
        self._case.put(b"new/" + unique, self._stored[unique], self._user)

    def reflag(self, number):
        """Move a message to cur/, or change its flags there."""
        for unique, path in self._one_of(number):
            os.rename(
                path, self._case.at(b"cur/%b:2,%b" % (unique, b"FRS"[: number % 4]), self._user)
            )

    def unread(self, number):
        """Move a message back to new/."""
        for unique, path in self._one_of(number):
            os.rename(path, self._case.at(b"new/" + unique, self._user))

    def forget(self, number):
        """Remove a message behind the session's back."""
        for unique, path in self._one_of(number):
            os.unlink(path)
            del self._stored[unique]
            self._rewritten.discard(unique)

    def login(self, _number):
        """Open the maildrop: it holds what is stored; a second session is refused."""
        if self._mailbox is not None:
            with self._case.assertRaises(MaildropBusy), self._case.session(self._user):
                pass
            return
        self._mailbox = now(self._case.maildrops.open_maildrop(self._user))
        order = sorted(self._stored, key=lambda unique: (int(unique[:1]), unique))
        self._case.assertEqual(uids(self._mailbox), order)
        for unique, told in zip(order, self._mailbox.messages.octets, strict=True):
            if unique not in self._rewritten:
                self._case.assertEqual(told, naive_octets(self._stored[unique]))

    def rest(self, number):
        """Nothing happens for a while, save perhaps a login."""
        rest()
        if self._mailbox is None and number % 4:
            self.login(number)
            self.logout(number)

    def restart(self, _number):
        """Have another server, which knows nothing but what is in files."""
        if self._mailbox is None:
            self._case.restart()

    def spoil(self, number):
        """Do something to the file of sizes."""
        path = self._case.at(size_file.NAME, self._user)
        if self._mailbox is None and os.path.exists(path):
            with open(path, "r+b") as file:
                data = file.read()
                at = number * len(data) // 31
                file.seek(at)
                file.write(bytes([data[at] ^ 1]))
                file.truncate(len(data) - number % 3)

    def rewrite(self, number):
        """Change the bytes of a message, as no program ought to."""
        for unique, path in self._one_of(number):
            with open(path, "wb") as file:
                file.write(b"rewritten %d times\n" % number)
            self._stored[unique] = b"rewritten %d times\n" % number
            self._rewritten.add(unique)

    def retr(self, number):
        """Read a message: its bytes, or that it is gone, or that its octets are not those told."""
        for message in self._chosen(number):
            if message.uid not in self._stored:
                with self._case.assertRaises(NoSuchMessage):
                    read(self._mailbox, message.position)
            elif message.octets != naive_octets(self._stored[message.uid]):
                self._case.assertIn(message.uid, self._rewritten)
                with self._case.assertRaises(TryLater):
                    read(self._mailbox, message.position)
                # From now on all is right again.
                self._rewritten.clear()
                self.logout()
                self.login(number)
            else:
                self._case.assertEqual(
                    read(self._mailbox, message.position), self._stored[message.uid]
                )

    def remove(self, number):
        """Remove two messages, or one, or none."""
        chosen = {*self._chosen(number), *self._chosen(number // 3)}
        if chosen:
            now(self._mailbox.remove(chosen))
            for message in chosen:
                self._stored.pop(message.uid, None)
                self._rewritten.discard(message.uid)

    def logout(self, _number=0):
        """Release the maildrop; what ought to be there is."""
        if self._mailbox is not None:
            now(self._mailbox.release())
            self._mailbox = None
        self._case.assertEqual(sorted(self._paths()), sorted(self._stored))

    def _paths(self):
        folders = [self._case.at(folder, self._user) for folder in (b"new", b"cur")]
        return {n.partition(b":")[0]: os.path.join(f, n) for f in folders for n in os.listdir(f)}

    def _one_of(self, number):
        paths = sorted(self._paths().items())
        return paths and [paths[number % len(paths)]]

    def _chosen(self, number):
        messages = () if self._mailbox is None else self._mailbox.messages
        return messages and [messages[number % len(messages)]]


ACTIONS = st.sampled_from(sorted(name for name in vars(Traffic) if name[0] != "_"))


class TrafficTests(MaildirCase):
    """Whatever programs and sessions do in turns, a session sees what it ought to."""

    def restart(self):
        """Begin with nothing in memory."""
        self.maildrops = MaildirMaildrops(self.root, cache_messages=self.cache_messages, run=here)

    @settings(PATIENT, max_examples=70)
    @given(
        st.lists(st.tuples(ACTIONS, st.integers(0, 30)), min_size=5, max_size=40),
        st.sampled_from([0, 13, 500]),
    )
    def test_any_traffic(self, actions, cache_messages):
        """No action of other programs makes a session show, keep or remove the wrong thing.

        Nor does it matter how much is remembered.
        """
        self.patch(folders, "TRUSTED_AGE", folders.CLOCK_TICK)
        self.patch(index, "SAVE_THRESHOLD", 2)
        self.cache_messages = cache_messages
        self.restart()
        traffic = Traffic(self, b"u%d" % next(self.ticks))
        try:
            for action, number in actions:
                getattr(traffic, action)(number)
        finally:
            traffic.logout()
