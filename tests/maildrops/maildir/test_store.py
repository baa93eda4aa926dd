"""popserv.maildrops.maildir.store: opening Maildirs, among other programs and failures."""

import errno
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from hashlib import blake2b
from inspect import getsource
from itertools import count
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import TestCase

from popserv.core.user_folder import UserFolder
from popserv.errors import MaildropBusy, MaildropUnavailable, TryLater
from popserv.maildrops import cached_open, layout, page_cache
from popserv.maildrops.cached_open import NotCached, is_local_filesystem
from popserv.maildrops.maildir import files, folders, small_files, store
from popserv.maildrops.maildir.listing import counting, index
from popserv.maildrops.maildir.store import MaildirMaildrops
from popserv.messages.downgrade.downgrader import Downgrader
from popserv.runtime.permissions import user_name
from popserv.runtime.speedups import in_python
from popserv.testing import MailboxContract, naive_octets
from tests.maildrops.maildir.harness import (
    SLOW,
    SPECIAL_FILES,
    IndexedCase,
    MaildirCase,
    SizeFileCase,
    can_open_cached,
    failing,
    read_message,
    result,
    run_inline,
    uids_of,
    wait_for_clock_tick,
)
from tests.maildrops.maildir.test_file_names import naive_split
from tests.maildrops.maildir.traffic import ACTIONS, Traffic
from tests.maildrops.model import ModelMixin


class MaildirContract(MailboxContract):
    """The contract of all stores, for MaildirMaildrops."""

    options = {}

    def make_factory(self, messages):
        """Write the messages into new/ and, every second one, into cur/."""
        self.root = self.mktemp()
        os.makedirs(self.root)
        self.serial = count()
        for user, delivered in messages.items():
            self.make_maildir(user)
            for message in delivered:
                self.deliver(None, user, message)
        return self.another_factory(None)

    def make_maildir(self, user):
        """Make a user's Maildir, unless it exists."""
        for folder in (b"new", b"cur", b"tmp"):
            os.makedirs(self.path_of(user, folder), exist_ok=True)

    def path_of(self, user, *names):
        """Return the path of a user's Maildir, or of something in it."""
        return os.path.join(os.fsencode(self.root), user, *names)

    def deliver(self, _factory, user, message):
        """Write a message to tmp/ and move it."""
        self.make_maildir(user)
        serial = next(self.serial)
        with open(self.path_of(user, b"tmp", b"x"), "wb") as file:
            file.write(message)
        name = b"cur/%d.x:2,S" if serial % 2 else b"new/%d.x"
        os.rename(file.name, self.path_of(user, name % serial))

    def remove_externally(self, _factory, user, index):
        """Remove the message's file."""
        os.unlink(self.paths(user)[index])

    def paths(self, user):
        """Return the paths of the user's messages in order."""
        paths = [
            self.path_of(user, folder, name)
            for folder in (b"new", b"cur")
            for name in os.listdir(self.path_of(user, folder))
        ]
        return sorted(paths, key=lambda path: int(os.path.basename(path).split(b".")[0]))

    def disturb(self, _factory, user, number):
        """Set the flags of a message, or move it back to new/."""
        paths = self.paths(user)
        if paths:
            path = paths[number % len(paths)]
            base_name = os.path.basename(path).split(b":")[0]
            name = (b"new/%b", b"cur/%b:2,", b"cur/%b:2,S", b"cur/%b:2,RS")[number // 2]
            os.rename(path, self.path_of(user, name % base_name))

    def another_factory(self, _factory):
        """Return a store with nothing in memory."""
        return MaildirMaildrops(self.root, **self.options)

    @contextmanager
    def failing_open(self, _factory, user):
        """Put a file in the place of cur/."""
        os.rename(self.path_of(user, b"cur"), self.path_of(user, b"away"))
        with open(self.path_of(user, b"cur"), "wb"):
            yield
        os.unlink(self.path_of(user, b"cur"))
        os.rename(self.path_of(user, b"away"), self.path_of(user, b"cur"))

    @contextmanager
    def failing_removal(self, _factory, _user):
        """Let the system refuse to remove the first message."""
        error = PermissionError(errno.EACCES, "no")
        # The function in C does not call that of os.
        function = files.unlink_unchanged
        with (
            mock.patch.object(files, "unlink_unchanged", in_python.get(function, function)),
            failing(os, "unlink", error, lambda name, *_: name == b"0.x"),
        ):
            yield


class ThreadedContractTests(MaildirContract, TestCase):
    """The contract holds with threads, as in a server."""


class InlineContractTests(ModelMixin, MaildirContract, TestCase):
    """The contract holds without threads, and the store behaves as the model does."""

    options = {"run": run_inline}


class DowngradingContractTests(MaildirContract, TestCase):
    """The contract holds in a server with UTF8."""

    options = {"run": run_inline, "downgrader": Downgrader}


class FolderContractTests(MaildirContract, TestCase):
    """The contract holds for a folder."""

    options = {"run": run_inline, "folder": ".Sent"}

    def path_of(self, user, *names):
        """Return the path of a user's folder, or of something in it."""
        return super().path_of(user, b".Sent", *names)


class FolderTests(MaildirCase):
    """Folders that clients name."""

    def setUp(self):
        """Make two folders, and one of removed messages."""
        super().setUp()
        for folder in (b".Sent", b".Lists.a", b".Trash"):
            os.makedirs(self.path_of(folder + b"/cur"))
        self.put(b"new/1.a")
        self.put(b".Sent/cur/2.b:2,S")

    def assert_no_folder(self, cause, folder, user=b"ann"):
        """Check that a client is told that there is no such folder, and the log why."""
        with self.assertRaises(MaildropUnavailable) as refused:
            result(self.maildrops.open_maildrop(UserFolder(user, folder)))
        self.assertEqual(str(refused.exception.text), "there is no such folder")
        self.assertIn(cause, str(refused.exception.__cause__))

    def test_messages(self):
        """Each folder has its own messages, also from memory and with a default folder."""
        self.maildrops = MaildirMaildrops(self.root, folder=".Sent", run=run_inline)
        wait_for_clock_tick()
        for user, uids in (
            (b"ann", [b"2.b"]),
            (UserFolder(b"ann", b"INBOX"), [b"1.a"]),
            (UserFolder(b"ann", b"Sent"), [b"2.b"]),
            (UserFolder(b"ann", b"Lists.a"), []),
        ) * 3:
            with self.session(user) as mailbox:
                self.assertEqual(uids_of(mailbox), uids)

    def test_locks(self):
        """Each folder has a lock of its own, whatever name it was opened by."""
        with self.session(), self.session(UserFolder(b"ann", b"Sent")):
            self.assert_refused(MaildropBusy, UserFolder(b"ann", b"Sent"))
            self.assert_refused(MaildropBusy, UserFolder(b"ann", b"INBOX"))
            with self.session(UserFolder(b"ann", b"Lists.a")):
                pass

    def test_missing(self):
        """A folder that does not exist is not an empty maildrop."""
        path = f"the folder {self.root}/ann/.Nowhere does not exist"
        self.assert_no_folder(path, b"Nowhere")
        path = f"the folder {self.root}/bob/.Sent does not exist"
        self.assert_no_folder(path, b"Sent", b"bob")

    def test_invalid(self):
        """A name that no folder has is refused."""
        for folder, cause in (
            (b"../bob", "'../bob' contains a slash"),
            (b"..", "'..' has an empty level"),
            (b"a\n", "not printable"),
            (b"\xff", "the name of the folder is not in UTF-8"),
            (b"x" * 255, "256 octets"),
        ):
            self.assert_no_folder(cause, folder)

    def test_trash(self):
        """The folder that removed messages are moved to is refused: they would stay in it."""
        self.maildrops = MaildirMaildrops(self.root, trash=".Trash", run=run_inline)
        self.assert_no_folder(".Trash is the folder that removed messages are moved to", b"Trash")
        with self.session(UserFolder(b"ann", b"Sent")) as mailbox:
            self.assertEqual(len(mailbox.messages), 1)

    def test_no_directory(self):
        """Something else in the place of a folder is named in the log."""
        os.mknod(self.path_of(b".File"))
        cause = self.assert_refused(MaildropUnavailable, UserFolder(b"ann", b"File"))
        self.assertEqual(str(cause), f"{self.root}/ann/.File is a file, an mbox perhaps")

    def test_no_maildir(self):
        """The inbox of a user without a Maildir is empty."""
        log = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)
        with self.session(UserFolder(b"bob", b"INBOX")) as mailbox:
            self.assertEqual(len(mailbox.messages), 0)
        (event,) = log
        self.assertIn(f'"bob" has no Maildir at {self.root}/bob, and', formatEvent(event))

    def test_no_user(self):
        """A name that looks like a folder in memory, as a token may have one, is refused."""
        wait_for_clock_tick()
        for _ in range(2):
            with self.session(UserFolder(b"ann", b"Sent")):
                pass
        cause = self.assert_refused(MaildropUnavailable, b"ann\0Sent")
        self.assertIn("is not a valid name for a maildrop", str(cause))


class CachedOpenTests(IndexedCase):
    """An unchanged maildrop is opened without a thread if the kernel has its directories cached."""

    def test_without_threads(self):
        """No thread is used if the kernel has the directories cached."""
        if not can_open_cached(self.root):
            self.skipTest("open_cached is not supported here")
        runs = []

        async def run(function, *args):
            runs.append(function)
            return function(*args)

        self.maildrops = MaildirMaildrops(self.root, run=run)
        wait_for_clock_tick()
        for _ in range(20):
            self.scans()
        self.assertLess(len(runs), 20)

    def test_not_cached(self):
        """A thread opens the maildrop if any of its directories is not cached."""
        wait_for_clock_tick()
        first, _ = self.scans()
        for code in (errno.EAGAIN, errno.ENOSYS, errno.EPERM):
            for at in range(3):
                calls = count()
                not_cached = failing(
                    cached_open,
                    "_SYSCALL",
                    OSError(code, "no"),
                    lambda *_, at=at, n=calls: next(n) == at,
                )
                with not_cached:
                    messages, scans = self.scans()
                self.assertIs(messages, first)
                self.assertEqual(scans, 0)

    def test_not_local(self):
        """On file systems that are not local a thread always opens the maildrop."""
        with mock.patch.object(folders, "is_local_filesystem", return_value=False):
            wait_for_clock_tick()
            first, _ = self.scans()
            with failing(cached_open, "_SYSCALL", AssertionError("asked")):
                self.assertIs(self.scans()[0], first)

    def test_locked(self):
        """An unchanged maildrop is locked like any other, and refused while it is locked."""
        wait_for_clock_tick()
        self.scans()
        with self.session():
            self.assertIsNone(self.assert_refused(MaildropBusy))
        with self.session(maildrops=MaildirMaildrops(self.root, run=run_inline)):
            self.assertIsNone(self.assert_refused(MaildropBusy))


class CachedUpdateTests(IndexedCase):
    """A maildrop with a few new messages is opened without a thread, unless that may wait."""

    def setUp(self):
        """Open the maildrop, and count from then on what is called in threads."""
        super().setUp()
        self.runs = 0

        async def run(function, *args):
            self.runs += 1
            return function(*args)

        self.maildrops = MaildirMaildrops(self.root, run=run)
        wait_for_clock_tick()
        self.scans()

    def deliveries_without_thread(self):
        """Return how many of 20 sessions, after a delivery each, use no thread."""
        self.runs = 0
        for n in range(20):
            self.put(b"new/3.%d" % n, b"\n")
            self.assertEqual(len(self.scans()[0]), n + 3)
        return 20 - self.runs

    def test_without_threads(self):
        """No thread is used if the kernel has everything cached."""
        if not can_open_cached(self.root):
            self.skipTest("open_cached is not supported here")
        # Another process that renames files makes some fail.
        self.assertGreater(self.deliveries_without_thread(), 0)

    def test_texts(self):
        """A message that was counted without a thread need not be read again, but once."""
        if not can_open_cached(self.root):
            self.skipTest("open_cached is not supported here")
        # The kernel may fail with EAGAIN at any time, and some file systems have no RWF_NOWAIT.
        self.patch(counting, "read_start", lambda fd, maximum: os.pread(fd, maximum, 0))
        for module in (counting, layout, small_files):
            self.patch(
                module,
                "open_cached",
                lambda name, flags, dir_fd, *_: os.open(name, flags, dir_fd=dir_fd),
            )
        kept = self.maildrops._cache.texts._kept
        self.runs = 0
        for is_read_only in (False, True):
            self.put(b"new/3.c", b"1234\n\n")
            store = self.maildrops.variant(trash="", path=b"", read_only=is_read_only)
            with self.session(maildrops=store) as mailbox:
                self.assertEqual(mailbox.texts, {b"3.c": b"1234\n\n"})
                self.assertEqual([*kept], [mailbox])
                os.unlink(self.path_of(b"new/3.c"))
                first, *_, message = mailbox.messages
                # That of an older message is not kept.
                mailbox.read_cached(first, 4)
                self.assertEqual([*mailbox.texts], [b"3.c"])
                self.assertEqual(mailbox.read_cached(message, 4), b"1234")
                self.assertIsNone(mailbox.read_cached(message, 7))
            self.assertEqual([*kept], [])
            self.scans()
        self.assertEqual(self.runs, 0)

    def test_not_cached(self):
        """A thread opens the maildrop if a folder or a message may have to be read from a disk."""
        with failing(store, "update_index", NotCached(), lambda *_: not self.runs):
            self.put(b"new/3.c", b"\n")
            self.scans()
            self.assertEqual(self.runs, 1)

    def test_failure(self):
        """A maildrop is unlocked after any other exception."""
        self.put(b"new/3.c")
        with (
            mock.patch.object(store, "update_index", side_effect=ZeroDivisionError),
            self.assertRaises(ZeroDivisionError),
        ):
            self.scans()
        self.assertEqual(len(self.scans()[0]), 3)


class CachedOpenAfterRestartTests(SizeFileCase):
    """A maildrop whose index is from the size file can be opened without a thread, too."""

    def test_local(self):
        """After a login that used the size file, no thread is needed on a local file system."""
        if not can_open_cached(self.root):
            self.skipTest("open_cached is not supported here")
        for is_local in (True, False):
            self.listing()
            wait_for_clock_tick()
            self.listing()
            self.restart()
            with mock.patch.object(folders, "is_local_filesystem", return_value=is_local):
                self.listing()
            with mock.patch.object(self.maildrops, "run", side_effect=TryLater):
                if is_local:
                    self.listing()
                else:
                    self.assertRaises(TryLater, self.listing)


class RefusalTests(MaildirCase):
    """If a maildrop cannot be opened, the log has the reason and the client has not."""

    def test_invalid_maildrops(self):
        """A maildrop is refused if its path is not a directory or its name is not allowed."""
        os.mknod(os.path.join(self.root, "file"))
        os.symlink("nowhere", os.path.join(self.root, "dangling"))
        for user, cause in {
            b"file": "/file is a file, an mbox perhaps",
            b"dangling": "/nowhere, which does not exist",
            b"a" * 300: "/aaa.*: File name too long",
            b"../ann": '"../ann" is not a valid name for a maildrop',
        }.items():
            self.assertRegex(str(self.assert_refused(MaildropUnavailable, user)), cause)

    def test_invalid_folders(self):
        """A folder that cannot be opened is named with its whole path, and what it is."""
        for name, make, problem in [
            ("new", os.mknod, "is a file, an mbox perhaps"),
            ("cur", lambda path: os.symlink("..", path), "is a symbolic link that belongs to .*"),
            ("cur", os.mkfifo, "is not a directory"),
        ]:
            path = os.path.join(self.root, "ann", name)
            os.rmdir(path)
            make(path)
            cause = self.assert_refused(MaildropUnavailable)
            self.assertRegex(str(cause), f"^{re.escape(path)} {problem}$")
            os.unlink(path)
            os.mkdir(path)

    def test_unreadable(self):
        """A directory that the server may not read is named, with its owner and its mode."""
        owner = user_name(os.geteuid())
        for name, mode in (("", 0o711), ("new", 0o711), ("cur", 0o000)):
            path = os.path.join(self.root, "ann", name).rstrip("/")
            # The owner, who is not root, may not read it either.
            mode = mode & 0o077 if os.geteuid() else mode
            os.chmod(path, mode)
            with self.without_privileges():
                cause = self.assert_refused(MaildropUnavailable)
                user = user_name(os.geteuid())
            os.chmod(path, 0o755)
            self.assertEqual(
                str(cause),
                f"{path} cannot be read by user {user}; it belongs to {owner} and has mode "
                f"{mode:04o}",
            )

    def test_directories_among_messages(self):
        """Directories and other files that are no messages are left out, and stay at QUIT."""
        for number, (kind, make) in enumerate(SPECIAL_FILES.items()):
            for folder in ("new", "cur"):
                with self.subTest(kind=kind):
                    make(os.path.join(self.root, "ann", folder, f"{number}.x"))
        os.makedirs(self.path_of(b"cur/9.dir:2,S/new"))
        self.put(b"new/8.a")
        before = self.file_names()
        with self.session() as mailbox:
            self.assertEqual(uids_of(mailbox), [b"8.a"])
            result(mailbox.remove(mailbox.messages))
        before.remove(b"new/8.a")
        self.assertEqual(self.file_names(), before)

    def test_no_maildir(self):
        """A user without a Maildir has an empty maildrop, and is logged once, with the path."""
        log = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)
        for user in (b"bob", b"bob", b"cid", b"bob", b"ann"):
            with self.session(user) as mailbox:
                self.assertEqual(len(mailbox.messages), 0)
        self.assertEqual(
            [formatEvent(event) for event in log],
            [
                f'"{user}" has no Maildir at {self.root}/{user}, and sees an empty maildrop until '
                "mail is delivered there; if the mail is elsewhere, correct --maildir"
                for user in ("bob", "cid")
            ],
        )

    def test_long_path(self):
        """The path in the log is whole although the name is longer than names in the log."""
        log = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)
        name = "\n" + "d" * 250
        with self.session(name.encode()):
            pass
        (event,) = log
        self.assertIn(rf" at {self.root}/\n{'d' * 250}, and sees", formatEvent(event))

    def test_many_without_maildir(self):
        """If too many users have no Maildir, they are forgotten and logged again."""
        log = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)
        self.patch(store, "_MAX_LOGGED_USERS", 2)
        for user in (b"bob", b"cid", b"bob", b"dan", b"bob"):
            with self.session(user):
                pass
        self.assertEqual([event["user"] for event in log], ["bob", "cid", "dan", "bob"])

    def test_no_root(self):
        """If the root does not exist, maildrops are refused and not empty."""
        self.maildrops = MaildirMaildrops(self.root + "/nowhere", run=run_inline)
        cause = self.assert_refused(MaildropUnavailable)
        self.assertEqual(str(cause), f"the directory {self.root}/nowhere does not exist; create it")

    def test_failures(self):
        """The error code decides between TryLater and MaildropUnavailable; no file stays open."""
        self.put(b"new/1.a", b"x" * counting.SMALL_MESSAGE)
        permanent = {errno.EACCES, errno.EPERM, errno.EIO}
        transient = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOLCK, errno.ESTALE}
        steps = {
            "root": (os, "open", lambda name, *_: name == os.fsencode(self.root)),
            "maildrop": (os, "open", lambda name, *_: name == b"ann"),
            "new": (os, "open", lambda name, *_: name == b"new"),
            "cur": (os, "open", lambda name, *_: name == b"cur"),
            "lock": (folders.fcntl, "flock", lambda *_: True),
            "scan": (os, "scandir", lambda *_: True),
            "message": (os, "open", lambda name, *_: name == b"1.a"),
            "bytes": (os, "read", lambda *_: True),
        }
        for step, (owner, name, when) in steps.items():
            for code in permanent | transient:
                if step == "message" and code in (errno.EACCES, errno.EPERM):
                    continue
                error = OSError(code, "secret")
                refusal = TryLater if code in transient else MaildropUnavailable
                with failing(owner, name, error, when):
                    cause = self.assert_refused(refusal)
                self.assertEqual(cause.errno, code, step)
                self.assertIn(self.root, str(cause))
        self.assertEqual(len(self.read_in_session()), 1)


LOCKING_PROCESS = f"""
import asyncio, sys
from popserv.maildrops.maildir.store import MaildirMaildrops

{getsource(run_inline)}

asyncio.run(MaildirMaildrops(sys.argv[1], run=run_inline).open_maildrop(b"ann"))
print("locked", flush=True)
sys.stdin.read()
"""


class LockTests(MaildirCase):
    """A maildrop has one session at a time, in all processes (RFC 1725 section 4)."""

    @contextmanager
    def process_with_lock(self):
        """Hold the lock in another process."""
        command = [sys.executable, "-c", LOCKING_PROCESS, self.root]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(command, env=environment, **pipes) as process:
            self.assertEqual(process.stdout.readline(), b"locked\n")
            yield process

    def test_within_a_process(self):
        """Another factory in this process is refused until the lock is released."""
        other = MaildirMaildrops(self.root, run=run_inline)
        with self.session():
            self.assertIsNone(self.assert_refused(MaildropBusy))
            with self.assertRaises(MaildropBusy), self.session(maildrops=other):
                pass
        with self.session(maildrops=other):
            self.assert_refused(MaildropBusy)

    def test_across_processes(self):
        """A session in another process keeps the lock until it ends."""
        with self.process_with_lock() as process:
            self.assert_refused(MaildropBusy)
            process.communicate()
            self.assertEqual(self.read_in_session(), [])

    def test_killed(self):
        """The lock of a process that is killed is released."""
        with self.process_with_lock() as process:
            process.kill()
            process.wait()
            self.assertEqual(self.read_in_session(), [])

    def test_failed_opening(self):
        """A maildrop that could not be opened is not locked."""
        with failing(os, "scandir", OSError(errno.EIO, "broken")):
            self.assert_refused(MaildropUnavailable)
        self.assertEqual(self.read_in_session(), [])

    def test_nothing_written(self):
        """A session that only reads changes nothing in a Maildir: no lock file, no rename."""
        self.put(b"new/1.a")
        paths = [self.path_of(folder) for folder in (b"", b"new", b"cur", b"tmp")]
        before = [os.stat(path).st_mtime_ns for path in paths]
        self.read_in_session()
        self.assertEqual([os.stat(path).st_mtime_ns for path in paths], before)


LINES = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"x", b"\xff"]), max_size=12).map(
    b"".join
)


NAMES = st.builds(
    b"%b%b%b".__mod__,
    st.tuples(
        st.sampled_from([b"", b"1.", b"2.", b"10.", b"x.", b"." * 2]),
        st.binary(max_size=90).map(lambda name: name.translate(None, b"/\0")),
        st.sampled_from([b"", b":2,", b":2,FS", b";2,", b"!2,FS"]),
    ),
).filter(lambda name: name not in (b"", b".", b".."))


def base_name_of(file):
    """Return the base name of a file."""
    return naive_split(file[1])[0]


def naive_listing(files):
    """Return unique-id, octets and bytes of each message, computed in the plainest way."""
    rows = []
    for _, name, message in files:
        base_name = naive_split(name)[0]
        time = re.match(rb"([0-9]{1,19})(?:\.|\Z)", base_name)
        uid = base_name
        if not re.fullmatch(rb"[!-~]{1,70}", base_name):
            uid = blake2b(base_name, digest_size=20).hexdigest().encode()
        if not name.startswith(b"."):
            order = (int(time[1]) if time else 0, base_name)
            rows.append((order, (uid, naive_octets(message), message)))
    return [row for _, row in sorted(rows)]


class AnyMaildirTests(MaildirCase):
    """Whatever names and bytes a Maildir has, it is shown as a naive implementation shows it."""

    @SLOW
    @given(
        st.lists(st.tuples(st.sampled_from([b"new", b"cur"]), NAMES, LINES), unique_by=base_name_of)
    )
    def test_any_files(self, files):
        """Order, unique-ids, octets and bytes are those of the naive listing."""
        user = b"u%d" % next(self.ticks)
        self.make_maildir(user)
        for folder, name, message in files:
            self.put(b"%b/%b" % (folder, name), message, user)
        with self.session(user) as mailbox:
            listing = [
                (message.uid, message.octets, read_message(mailbox, at))
                for at, message in enumerate(mailbox.messages)
            ]
        self.assertEqual(listing, naive_listing(files))


class TrafficTests(MaildirCase):
    """Whatever programs and sessions do in turn, a session sees the right messages."""

    cache_messages = 500

    def restart(self):
        """Drop everything that is in memory."""
        self.maildrops = MaildirMaildrops(
            self.root, cache_messages=self.cache_messages, run=run_inline
        )

    @settings(SLOW, max_examples=70)
    @given(
        st.lists(st.tuples(ACTIONS, st.integers(0, 30)), min_size=5, max_size=40),
        st.sampled_from([0, 13, 500]),
        st.booleans(),
        st.integers(0, 3),
    )
    def test_any_traffic(self, actions, cache_messages, is_local, delivered):
        """No sequence of actions makes a session show, keep or remove a wrong message.

        This holds for any size of the cache, and whether maildrops are opened in threads only.
        """
        is_local_type = is_local_filesystem if is_local else lambda _fd: False
        self.patch(folders, "is_local_filesystem", is_local_type)
        # Not every file system supports RWF_NOWAIT.
        self.patch(page_cache, "_NOWAIT", 0)
        self.patch(folders, "TRUSTED_AGE", folders.CLOCK_TICK)
        self.patch(index, "SAVE_THRESHOLD", 2)
        self.cache_messages = cache_messages
        self.restart()
        traffic = Traffic(self, b"u%d" % next(self.ticks))
        try:
            for number in range(delivered):
                traffic.deliver(number + 1)
            for action, number in actions:
                getattr(traffic, action)(number)
        finally:
            traffic.logout()
