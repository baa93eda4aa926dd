"""Tests of popserv.maildrops.mh.store."""

import os
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import TestCase

from popserv.errors import MaildropBusy, MaildropUnavailable, NoSuchMessage
from popserv.maildrops.mh import MHMaildrops, counting
from popserv.maildrops.mh import folder as folder_module
from popserv.maildrops.mh import mailbox as mailbox_module
from popserv.maildrops.mh import store as module
from popserv.messages.downgrade.downgrader import Downgrader
from popserv.testing import MailboxContract
from tests.maildrops.maildir.harness import failing, read_message, result, run_inline
from tests.maildrops.mh.harness import MHCase, deliver, numbers_in, pack
from tests.maildrops.model import ModelMixin


class MHContract(MailboxContract):
    """The contract of all stores."""

    options = {}

    def make_factory(self, messages):
        """Deliver the messages."""
        self.root = os.path.abspath(self.mktemp())
        os.makedirs(self.root)
        factory = self.another_factory()
        for user, delivered in messages.items():
            os.mkdir(os.path.join(self.root, os.fsdecode(user)))
            for message in delivered:
                self.deliver(factory, user, message)
        return factory

    def deliver(self, factory, user, message):
        """Write the next number."""
        deliver(os.path.join(self.root, os.fsdecode(user)), message)

    def remove_externally(self, factory, user, index):
        """Rename a message to a backup, as rmm does; its inode is not used again."""
        folder = os.path.join(self.root, os.fsdecode(user))
        path = os.path.join(folder, str(numbers_in(folder)[index]))
        os.rename(path, os.path.join(folder, f",{os.stat(path).st_ino}"))
        return True

    def another_factory(self, factory=None):
        """Return a factory with a cache of its own."""
        return MHMaildrops(self.root, **self.options)

    def disturb(self, factory, user, number):
        """Renumber all messages, or one; read or write the folder's sequences."""
        folder = os.path.join(self.root, os.fsdecode(user))
        numbers = numbers_in(folder)
        if number < 3:
            pack(folder)
        elif number < 6 and numbers:
            # As "refile" to the same folder, the last message gets another number.
            last = os.path.join(folder, str(numbers[-1]))
            os.rename(last, os.path.join(folder, str(numbers[-1] + number)))
        elif number == 6:
            with open(os.path.join(folder, ".mh_sequences"), "wb") as file:
                file.write(b"cur: 1\nunseen: %b\n" % b" ".join(b"%d" % each for each in numbers))
        elif os.path.exists(os.path.join(folder, ".popserv-index")):
            os.unlink(os.path.join(folder, ".popserv-index"))

    def failing_open(self, factory, user):
        """The folder cannot be listed."""
        return failing(folder_module.os, "scandir", OSError(5, "I/O error"))

    def failing_removal(self, factory, user):
        """The second message cannot be removed."""
        error = PermissionError(13, "Permission denied")
        return failing(folder_module.os, "rename", error, lambda name, *_, **__: name == b"2")


class ThreadedContractTests(MHContract, TestCase):
    """The contract holds with threads, as in a server."""


class DowngradingContractTests(MHContract, TestCase):
    """The contract holds in a server with UTF8."""

    options = {"downgrader": Downgrader}


class InlineContractTests(ModelMixin, MHContract, TestCase):
    """The contract holds without threads, and the store behaves as the model does."""

    options = {"run": run_inline}

    def setUp(self):
        """The model has no clock: every scan is settled."""
        self.patch(folder_module, "CLOCK_TICK", -(10**12))


class StoreTests(MHCase):
    """Opening folders."""

    def test_unchanged(self):
        """An unchanged folder is not listed again, nor its messages examined."""
        self.deliver(b"1\n", b"2\n")
        self.patch(folder_module, "TRUSTED_AGE", -(10**12))
        self.uids()
        with failing(folder_module.os, "scandir", AssertionError):
            self.uids()

    def test_partly_written(self):
        """A message that is written on after a session is another one in the next session."""
        for owner in (folder_module, module):
            # Writing does not alter the times of the folder.
            self.patch(owner, "times_of", lambda fd: (1, 1, 0, 0))
        with open(self.file(1), "wb", buffering=0) as file:
            file.write(b"the start\n")
            (part,) = self.uids()
            file.write(b"the end\n")
            (whole,) = self.uids()
        self.assertNotEqual(part, whole)
        self.assertEqual(self.read_all(), [b"the start\nthe end\n"])

    def test_too_large(self):
        """A message of more than 1 GiB is not read, and has 0 octets; RETR names its file."""
        self.deliver(b"1\n", b"2\n", b"3\n")
        for number in (1, 2):
            os.truncate(self.file(number), (1 << 30) + 1)
        with failing(os, "read", AssertionError, lambda fd, _: os.fstat(fd).st_size > 1 << 30):
            self.assertEqual(len(set(self.uids())), 3)
        with self.session() as mailbox:
            self.assertEqual([*mailbox.messages.octets], [0, 0, 3])
            with self.assertRaises(MaildropUnavailable) as refused:
                read_message(mailbox, 0)
            problem = f"{self.file(1)}: it has more than 1073741824 octets"
            self.assertEqual(str(refused.exception.__cause__), problem)
            self.assertEqual(read_message(mailbox, 2), b"3\n")
            result(mailbox.remove(mailbox.messages[:2]))
        self.assertEqual(self.read_all(), [b"3\n"])

    def test_grown(self):
        """What is added to a file while it is counted is not read."""
        self.deliver(b"1\n")
        real, reads = os.read, []

        def read(fd, octets):
            os.truncate(self.file(1), 1 << 20)
            reads.append(real(fd, octets))
            return reads[-1]

        fd = os.open(self.file(1), os.O_RDONLY)
        with patch.object(os, "read", read):
            entry = counting.count_file(fd, 1, None)
        os.close(fd)
        self.assertEqual((entry.key.length, entry.sizes.octets), (2, 3))
        self.assertEqual(reads, [b"1\n", b""])

    def test_largest(self):
        """A message of exactly the limit is read."""
        self.deliver(b"1\n", b"22\n")
        for owner in (counting, mailbox_module):
            self.patch(owner, "MAX_MESSAGE", 2)
        with self.session() as mailbox:
            self.assertEqual([*mailbox.messages.octets], [3, 0])
            self.assertEqual(read_message(mailbox, 0), b"1\n")
            self.assertRaises(MaildropUnavailable, read_message, mailbox, 1)

    def test_faults(self):
        """What cannot be opened is refused with its path in the log, and is not locked."""
        os.mkdir(self.path + "/sub")
        with open(os.path.join(self.root, "file"), "wb"):
            pass
        for user in (b"file", b"..", b"a/b"):
            with self.assertRaises(MaildropUnavailable):
                result(self.maildrops.open_maildrop(user))
        listing = failing(folder_module.os, "scandir", OSError(5, "I/O error"))
        with listing, self.assertRaises(MaildropUnavailable) as refused:
            result(self.maildrops.open_maildrop(b"ann"))
        self.assertIn(self.path, str(refused.exception.__cause__))
        self.assertEqual(self.uids(), [])

    def test_unreadable_message(self):
        """If the disk cannot read a message, the log names its file."""
        self.deliver(b"1\n", b"2\n")
        reading = failing(os, "read", OSError(5, "I/O error"))
        with reading, self.assertRaises(MaildropUnavailable) as refused:
            result(self.maildrops.open_maildrop(b"ann"))
        self.assertEqual(str(refused.exception.__cause__), f"{self.file(1)}: I/O error")

    def test_no_folder(self):
        """A user without a folder has an empty and exclusive maildrop."""
        with self.session(b"bob") as opened:
            self.assertEqual(len(opened.messages), 0)
            with self.assertRaises(MaildropBusy):
                result(self.maildrops.open_maildrop(b"bob"))

    def test_busy(self):
        """A folder that another session has is not opened, and no file stays open."""
        with self.session(), self.assertRaises(MaildropBusy):
            result(module.MHMaildrops(self.root, run=self.maildrops.run).open_maildrop(b"ann"))


class Traffic:
    """One folder, the messages that should be in it, other programs, and one session.

    A message of the model is its octets, which no other has.
    """

    def __init__(self, case):
        self.case = case
        self.serial = 0
        self.stored = []
        self.mailbox = None
        self.snapshot = []
        self.uids = {}

    def deliver(self, number):
        """Deliver a message."""
        self.serial += 1
        text = b"Subject: %d\n\n" % self.serial + b"text\n" * (number % 4)
        deliver(self.case.path, text)
        self.stored.append(text)

    def remove_externally(self, number):
        """Remove a message as rmm does: by renaming it to a backup."""
        if self.stored:
            at = number % len(self.stored)
            name = str(numbers_in(self.case.path)[at])
            os.rename(self.case.file(name), self.case.file("," + name))
            del self.stored[at]

    def pack(self, number):
        """Renumber the messages."""
        pack(self.case.path)

    def swap(self, number):
        """Exchange two messages, as sortm does."""
        if len(self.stored) > 1:
            numbers = numbers_in(self.case.path)
            first, second = number % len(numbers), number // 7 % len(numbers)
            one, two = (self.case.file(numbers[at]) for at in (first, second))
            os.rename(one, one + ".tmp")
            if first != second:
                os.rename(two, one)
            os.rename(one + ".tmp", two)
            stored = self.stored
            stored[first], stored[second] = stored[second], stored[first]

    def restart(self, number):
        """Restart the server, between sessions."""
        if self.mailbox is None:
            self.case.restart()

    def login(self):
        """Open the maildrop, and compare what it shows."""
        self.mailbox = result(self.case.maildrops.open_maildrop(b"ann"))
        self.snapshot = list(self.stored)
        uids = [message.uid for message in self.mailbox.messages]
        assert len(uids) == len(self.snapshot), (uids, self.snapshot)
        for text, uid in zip(self.snapshot, uids, strict=True):
            self.case.assertEqual(self.uids.setdefault(text, uid), uid)
        self.case.assertEqual(len(set(self.uids.values())), len(self.uids))

    def retrieve(self, number):
        """Read a message: it is there, or was removed."""
        if self.snapshot:
            at = number % len(self.snapshot)
            try:
                text = read_message(self.mailbox, at)
            except NoSuchMessage:
                self.case.assertNotIn(self.snapshot[at], self.stored)
            else:
                self.case.assertEqual(text, self.snapshot[at])

    def remove(self, number):
        """Remove some messages, and end the session."""
        wanted = [at for at in range(len(self.snapshot)) if number >> at & 1]
        result(self.mailbox.remove([self.mailbox.messages[at] for at in wanted]))
        gone = {self.snapshot[at] for at in wanted}
        self.stored = [text for text in self.stored if text not in gone]
        self.logout()
        self.case.assertEqual(self.case.read_all(), self.stored)

    def logout(self):
        """End the session."""
        result(self.mailbox.release())
        self.mailbox = None


ACTIONS = ("deliver", "remove_externally", "pack", "swap", "restart")
SESSION_ACTIONS = ("retrieve", "remove")


class ModelTests(MHCase):
    """Any actions in any order."""

    @given(
        st.lists(
            st.tuples(st.sampled_from(ACTIONS + SESSION_ACTIONS * 2), st.integers(0, 63)),
            max_size=20,
        )
    )
    @settings(max_examples=200, deadline=None)
    def test_model(self, actions):
        """A session shows what the model has, and removes what was marked and nothing else."""
        for name in os.listdir(self.path):
            os.unlink(self.file(name))
        self.restart()
        traffic = Traffic(self)
        # The model has no clock: every scan is settled.
        with patch.object(folder_module, "CLOCK_TICK", -(10**12)):
            try:
                for name, number in actions:
                    if name in SESSION_ACTIONS and traffic.mailbox is None:
                        traffic.login()
                    getattr(traffic, name)(number)
            finally:
                if traffic.mailbox is not None:
                    traffic.logout()
            self.assertEqual(self.read_all(), traffic.stored)
