"""Tests of popserv.maildrops.maildir.hiding."""

import errno
import os

from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from popserv.errors import MaildropUnavailable, RemovalFailed, TryLater
from popserv.interfaces import ICachedMessages, IMaildropFactory, IRetrievalRecord
from popserv.maildrops.maildir import hidden_file, hiding
from popserv.maildrops.maildir.hiding import HidingMaildrops
from tests.maildrops.maildir.harness import (
    MaildirCase,
    failing,
    read_message,
    result,
    run_inline,
    uids_of,
)
from tests.maildrops.maildir.test_store import MaildirContract


class HidingTests(MaildirCase):
    """Removed messages stay in the Maildir, and are not shown again."""

    def setUp(self):
        """Deliver three messages."""
        super().setUp()
        self.names = [b"cur/2.b:2,S", b"new/1.a", b"new/3.c"]
        for name in self.names:
            self.put(name, name)

    def restart(self):
        """Keep messages that are removed."""
        super().restart()
        self.maildrops = HidingMaildrops(self.maildrops)

    def remove(self, *positions):
        """Remove messages in a session of their own."""
        with self.session() as mailbox:
            result(mailbox.remove([mailbox.messages[at] for at in positions]))

    def shown(self):
        """Return the unique-ids, which are the same after a restart."""
        shown = []
        for _ in range(2):
            with self.session() as mailbox:
                shown.append(uids_of(mailbox))
            self.restart()
        self.assertEqual(*shown)
        return shown[0]

    def test_remove(self):
        """A removed message is hidden whatever its flags are, also from LAST."""
        verifyObject(IMaildropFactory, self.maildrops)
        self.remove(0)
        self.move(b"new/1.a", b"cur/1.a:2,S")
        self.assertEqual(self.shown(), [b"2.b", b"3.c"])
        with self.session() as mailbox:
            verifyObject(ICachedMessages, mailbox)
            verifyObject(IRetrievalRecord, mailbox)
            self.assertEqual(read_message(mailbox, 0), b"cur/2.b:2,S")
            self.assertEqual(result(mailbox.last_retrieved()), mailbox.messages[0])
        self.remove(0, 1)
        self.assertEqual(self.shown(), [])
        self.assertEqual(len(self.file_names()), 3)
        self.put(b"new/4.d")
        self.assertEqual(self.shown(), [b"4.d"])

    def test_removed_twice(self):
        """What a session removes in several steps is hidden altogether."""
        with self.session() as mailbox:
            for message in mailbox.messages[:2]:
                result(mailbox.remove([message]))
        self.assertEqual(self.shown(), [b"3.c"])

    def test_bounded(self):
        """What no longer exists is dropped from the file; without removals it is not written."""
        self.remove(0, 1)
        os.unlink(self.path_of(b"new/1.a"))
        self.remove(0)
        with open(self.path_of(hidden_file.NAME), "rb") as file:
            self.assertEqual(len(file.read()), len(b"popserv hidden 1\n") + 3 * 16)
        with failing(hidden_file, "save", AssertionError):
            self.remove()

    def test_not_found(self):
        """If the file is said not to exist, although it does, no hidden message is shown."""
        self.remove(0)
        missing = FileNotFoundError(errno.ENOENT, "No such file or directory")
        with failing(os, "open", missing, lambda name, *_: name == hidden_file.NAME):
            cause = self.assert_refused(TryLater)
        self.assertIn("/popserv-hidden: Stale file handle", str(cause))
        self.assertEqual(self.shown(), [b"2.b", b"3.c"])

    def test_faults(self):
        """If the file cannot be written, the messages remain; if it cannot be read, no session."""
        with (
            self.session() as mailbox,
            failing(hidden_file, "save", OSError(28, "full")),
            self.assertRaises(RemovalFailed) as failed,
        ):
            result(mailbox.remove(mailbox.messages))
        self.assertEqual(failed.exception.remaining, 3)
        self.assertIn("/popserv-hidden", str(failed.exception.__cause__))
        self.assertEqual(len(self.shown()), 3)
        with failing(hidden_file, "load", PermissionError(13, "no")):
            self.assertIn("/popserv-hidden", str(self.assert_refused(MaildropUnavailable)))
        for make, unmake in ((os.mkdir, os.rmdir), (os.mkfifo, os.unlink)):
            path = self.path_of(hidden_file.NAME)
            make(path)
            cause = self.assert_refused(MaildropUnavailable)
            self.assertEqual(str(cause), f"{os.fsdecode(path)}: is not a regular file")
            unmake(path)
        with failing(hiding, "_select", KeyError), self.assertRaises(KeyError):
            result(self.maildrops.open_maildrop(b"ann"))
        with self.session(b"nobody") as mailbox:
            self.assertEqual(len(mailbox.messages), 0)
        self.assertEqual(len(self.shown()), 3)


class ContractTests(MaildirContract, TestCase):
    """The contract holds if messages are kept, with unique-ids of Dovecot as well."""

    options = {"run": run_inline, "uidl": "dovecot"}

    def another_factory(self, factory):
        """Return a store that keeps messages, with nothing in memory."""
        return HidingMaildrops(super().another_factory(factory))

    def failing_removal(self, _factory, _user):
        """Leave no space for the file."""
        return failing(os, "rename", OSError(errno.ENOSPC, "no space"))
