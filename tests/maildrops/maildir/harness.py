"""A Maildir for tests, what other programs do to it, and system calls that fail."""

import os
import stat
import time
from contextlib import contextmanager
from functools import partial
from itertools import count
from unittest import mock

from hypothesis import HealthCheck, settings
from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.cached_open import is_local_filesystem, open_cached
from popserv.maildrops.maildir import files, folders, mailbox
from popserv.maildrops.maildir.contents import body
from popserv.maildrops.maildir.listing import counting, index, size_file
from popserv.maildrops.maildir.store import MaildirMaildrops
from popserv.maildrops.maildir.unique_ids import pinned_file
from popserv.runtime.speedups import in_python
from popserv.testing import naive_octets, read_all

NOBODY = 65534
"""The user and group number of a user without privileges."""

SLOW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

SPECIAL_FILES = {
    "a directory": os.mkdir,
    "a FIFO": os.mkfifo,
    "a socket": lambda path: os.mknod(path, stat.S_IFSOCK | 0o600),
    "a link to a file": partial(os.symlink, os.path.abspath(__file__)),
    "a dangling link": partial(os.symlink, "nowhere"),
    "a link to itself": lambda path: os.symlink(os.path.basename(path), path),
    "a link to a directory": partial(os.symlink, "/"),
}
"""Functions that make a file that is not a regular one."""

RENAMES = [
    (b"new/1.a", b"cur/1.a:2,"),
    (b"new/1.a", b"cur/1.a:2,RS"),
    (b"cur/1.a:2,", b"cur/1.a:2,S"),
    (b"cur/1.a:2,S", b"cur/1.a:2,"),
    (b"cur/1.a:2,S", b"cur/1.a"),
    (b"cur/1.a:2,", b"new/1.a"),
]
"""How other programs rename a message: its old and its new name."""


async def run_inline(function, *args):
    """Call a function that may block, without a thread."""
    return function(*args)


def result(coroutine):
    """Return the result of a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits")


def read_message(mailbox, position):
    """Return the bytes of the message at a position, from 0."""
    return result(read_all(result(mailbox.open(mailbox.messages[position]))))


def uids_of(mailbox):
    """Return the unique-ids in order."""
    return [message.uid for message in mailbox.messages]


@contextmanager
def failing(owner, name, error, when=lambda *_: True):
    """Make a function raise an error, at the calls for whose arguments ``when`` is true."""
    real = getattr(owner, name)

    def function(*args, **kwargs):
        if when(*args):
            raise error
        return real(*args, **kwargs)

    with mock.patch.object(owner, name, function):
        yield


@contextmanager
def before_each_call(owner, name, action):
    """Call ``action`` with a function's first argument before each call of that function."""
    real = getattr(owner, name)

    def function(argument, *args, **kwargs):
        action(argument)
        return real(argument, *args, **kwargs)

    with mock.patch.object(owner, name, function):
        yield


@contextmanager
def link_made_meanwhile(case, path):
    """Have another program make a link at a path when it is free; what it leads to must stay."""
    victim = os.path.join(os.path.dirname(path), b"victim")
    with open(victim, "wb") as file:
        file.write(b"precious")
    real = os.unlink

    def unlink(name, **options):
        try:
            real(name, **options)
        finally:
            if name == os.path.basename(path) and not os.path.lexists(path):
                os.symlink(b"victim", path)

    with mock.patch.object(os, "unlink", unlink):
        yield
    case.assertTrue(os.path.islink(path) or not os.path.exists(path))
    with open(victim, "rb") as file:
        case.assertEqual(file.read(), b"precious")


def watch_descriptors(case):
    """Fail the test if it leaves a file open that was not open before."""
    before = os.listdir("/dev/fd")
    case.addCleanup(lambda: case.assertEqual(set(os.listdir("/dev/fd")) - set(before), set()))


def can_open_cached(path):
    """Return whether this kernel and this file system support ``open_cached``."""
    try:
        fd = open_cached(os.fsencode(path), DIRECTORY, -1)
    except OSError:
        return False
    try:
        return is_local_filesystem(fd)
    finally:
        os.close(fd)


@contextmanager
def clock_tick_of(nanoseconds):
    """Give folders the times that a kernel with this clock tick would, and trust two ticks."""
    real = folders.times_of

    def times_of(number, status):
        times = real(number, status)
        return (*times[:-2], *(at // nanoseconds * nanoseconds for at in times[-2:]))

    with (
        mock.patch.object(folders, "times_of", times_of),
        mock.patch.object(folders, "TRUSTED_AGE", 2 * nanoseconds),
    ):
        yield


def wait_for_clock_tick():
    """Wait until the times of all files are older than a clock tick."""
    until = time.time_ns() + folders.CLOCK_TICK
    while time.clock_gettime_ns(folders.FILE_CLOCK) <= until:
        time.sleep(0.004)


def use_python(case, module, *names):
    """Let a module use functions in Python during a test.

    Tests inject faults into the functions of os, which the functions in C do not call.
    """
    for name in names:
        function = getattr(module, name)
        case.patch(module, name, in_python.get(function, function))


class MaildirCase(SynchronousTestCase):
    """Ann's Maildir, and what other programs do to it; no test may leave a file open."""

    downgrader = None

    def setUp(self):
        """Make an empty Maildir."""
        use_python(self, counting, "count_small_files")
        use_python(self, mailbox, "read_cached_file")
        use_python(self, body, "read_part")
        use_python(self, files, "unlink_unchanged")
        self.ticks = count(1)
        self.root = os.path.abspath(self.mktemp())
        self.make_maildir()
        self.restart()
        watch_descriptors(self)

    def restart(self):
        """Drop everything that is in memory."""
        self.maildrops = MaildirMaildrops(self.root, downgrader=self.downgrader, run=run_inline)

    def make_maildir(self, user=b"ann"):
        """Make an empty Maildir."""
        for folder in (b"new", b"cur", b"tmp"):
            os.makedirs(self.path_of(folder, user))

    def make_empty(self):
        """Remove all messages of Ann's."""
        for name in self.file_names():
            os.unlink(self.path_of(name))

    def path_of(self, name, user=b"ann"):
        """Return the path of a name in a Maildir."""
        return os.path.join(os.fsencode(self.root), user, name)

    def put(self, name, message=b"x\n", user=b"ann"):
        """Write a message file, ``name`` being ``new/...`` or ``cur/...``."""
        with open(self.path_of(name, user), "wb") as file:
            file.write(message)

    def move(self, old, new):
        """Rename a message, and give its folders other times however coarse the clock is."""
        os.rename(self.path_of(old), self.path_of(new))
        for folder in {os.path.dirname(old), os.path.dirname(new)}:
            os.utime(self.path_of(folder), ns=(0, next(self.ticks)))

    def change_flags(self, name):
        """Change the flags of a message in cur/."""
        base_name, _, flags = name.partition(b":2,")
        self.move(b"cur/" + name, b"cur/%b:2,%b" % (base_name, b"" if flags else b"S"))

    def file_names(self):
        """Return the names in new/ and cur/."""
        return sorted(
            b"%b/%b" % (folder, name)
            for folder in (b"new", b"cur")
            for name in os.listdir(self.path_of(folder))
        )

    @contextmanager
    def without_privileges(self):
        """Run as a user without privileges."""
        if os.geteuid():
            yield
            return
        # Other users cannot pass through a directory that trial makes.
        os.chmod(os.path.dirname(self.root), 0o711)
        os.seteuid(NOBODY)
        try:
            if not os.access(self.root, os.X_OK, effective_ids=True):
                self.skipTest("another user cannot reach this directory")
            yield
        finally:
            os.seteuid(0)

    @contextmanager
    def session(self, user=b"ann", maildrops=None):
        """Open a maildrop, and release it in the end."""
        mailbox = result((maildrops or self.maildrops).open_maildrop(user))
        try:
            yield mailbox
        finally:
            result(mailbox.release())

    def read_in_session(self):
        """Return all messages, read in a session of their own, after checking their octets."""
        with self.session() as mailbox:
            messages = [read_message(mailbox, at) for at in range(len(mailbox.messages))]
            self.assertEqual([*mailbox.messages.octets], [*map(naive_octets, messages)])
        return messages

    def files_read_at_logins(self, *users):
        """Open and release maildrops one after the other; return the names of the files read."""
        names = []
        for user in users:
            # One that is not small is opened twice.
            opened = {}
            with before_each_call(os, "open", opened.setdefault), self.session(user):
                pass
            names += opened
        others = (
            *(b"new", b"cur", b"ann", b"bob", b"cid", os.fsencode(self.root)),
            *(size_file.NAME, pinned_file.NAME),
        )
        return [name for name in names if name not in others]

    def assert_refused(self, error, user=b"ann"):
        """Check that opening raises this POPError with its usual text; return its cause."""
        with self.assertRaises(error) as refused:
            result(self.maildrops.open_maildrop(user))
        self.assertEqual(refused.exception.text, error().text)
        return refused.exception.__cause__

    def acting_during_scan(self, actions):
        """Do one of the actions after each listing of a folder, as other programs might."""
        real = os.scandir
        actions = iter(actions)

        @contextmanager
        def scandir(fd):
            with real(fd) as entries:
                listed = list(entries)
            next(actions, lambda: None)()
            yield listed

        return mock.patch.object(os, "scandir", scandir)


class IndexedCase(MaildirCase):
    """A Maildir of two messages; a scan is trusted once it is older than a clock tick."""

    def setUp(self):
        """Deliver two messages."""
        super().setUp()
        self.put(b"new/1.a", b"first\n")
        self.put(b"cur/2.b:2,", b"second\n")
        self.before = os.stat(self.path_of(b"new")).st_mtime_ns
        self.patch(folders, "TRUSTED_AGE", folders.CLOCK_TICK)

    def scans(self):
        """Open and release the maildrop; return its messages, and how many folders were listed."""
        listed = []
        with before_each_call(os, "scandir", listed.append), self.session() as mailbox:
            return mailbox.messages, len(listed)


class SizeFileCase(MaildirCase):
    """A Maildir of three messages, which are worth a size file."""

    names = [b"cur/1600000002.b:2,S", b"new/1600000001.a", b"new/1600000003.c"]

    def setUp(self):
        """Deliver three messages."""
        super().setUp()
        self.patch(index, "SAVE_THRESHOLD", 2)
        self.patch(folders, "TRUSTED_AGE", folders.CLOCK_TICK)
        for name in self.names:
            self.put(name, name + b"\n")
        self.bodies = [b"%b\n" % name for name in (self.names[1], self.names[0], self.names[2])]
        self.file = self.path_of(size_file.NAME)

    def files_read_after_restart(self):
        """Return the names of the messages that the first session after a restart opens."""
        self.restart()
        return [name for name in self.files_read_at_logins(b"ann") if name[:1].isdigit()]

    def listing(self, maildrops=None):
        """Return all messages and sizes that a session shows."""
        with self.session(maildrops=maildrops) as mailbox:
            return list(mailbox.messages), list(mailbox.messages.sizes())

    def assert_size_file_right(self):
        """Check that a restarted server shows the same with the size file and without."""
        self.restart()
        listing = self.listing()
        self.restart()
        with mock.patch.object(size_file, "load", return_value=None):
            self.assertEqual(listing, self.listing())
