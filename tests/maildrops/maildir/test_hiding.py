"""Tests of popserv.maildrops.maildir.hiding."""

import errno
import os

from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from popserv.errors import MaildropUnavailable, RemovalFailed, TryLater
from popserv.interfaces import ICachedMessages, IMaildropFactory, IRetrievalRecord
from popserv.maildrops.maildir import folders, hidden_file, hiding
from popserv.maildrops.maildir.hidden_file import digest_of
from popserv.maildrops.maildir.hiding import HidingMaildrops
from popserv.maildrops.maildir.store import MaildirMaildrops
from popserv.maildrops.maildir.unique_ids import dovecot_uidlist
from tests.maildrops.maildir.harness import (
    DIRECTORY,
    NOBODY,
    MaildirCase,
    failing,
    read_message,
    result,
    run_inline,
    uids_of,
    wait_for_clock_tick,
)
from tests.maildrops.maildir.test_store import MaildirContract


class HidingTests(MaildirCase):
    """Removed messages stay in the Maildir, and are not shown again."""

    def setUp(self):
        """Deliver three messages."""
        super().setUp()
        # Times are trusted once they are older than a clock tick.
        self.patch(folders, "TRUSTED_AGE", folders.CLOCK_TICK)
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
        wait_for_clock_tick()
        self.remove(0)
        self.assertEqual(self.hidden(), {b"2.b", b"3.c"})
        with failing(hidden_file, "save", AssertionError):
            self.remove()

    def hidden(self):
        """Return the base names of hidden messages."""
        fd = os.open(self.path_of(b""), DIRECTORY)
        try:
            digests = hidden_file.load(fd)
        finally:
            os.close(fd)
        known = {digest_of(name): name for name in (b"1.a", b"2.b", b"3.c")}
        return {known[digest] for digest in digests}

    def test_folder_away(self):
        """Messages in a folder that is away for some time stay hidden."""
        self.remove(1)
        os.rename(self.path_of(b"cur"), self.path_of(b"cur.away"))
        wait_for_clock_tick()
        self.remove(0)
        os.rename(self.path_of(b"cur.away"), self.path_of(b"cur"))
        self.assertEqual(self.shown(), [b"3.c"])

    def test_renamed_during_scan(self):
        """So does one that may have been missed because a program was renaming it."""
        self.remove(0)
        self.restart()
        self.move(b"new/1.a", b".1.a")
        # The folder has changed just now.
        self.patch(folders, "TRUSTED_AGE", 10**12)
        self.remove(0)
        self.move(b".1.a", b"cur/1.a:2,S")
        self.assertEqual(self.shown(), [b"3.c"])

    def test_unreadable(self):
        """So does one that is skipped, because it may not be read for some time."""
        for name in (b"", b"new", b"cur"):
            os.chown(self.path_of(name), NOBODY, NOBODY)
        self.remove(0)
        self.restart()
        os.chmod(self.path_of(b"new/1.a"), 0)
        wait_for_clock_tick()
        with self.without_privileges():
            self.remove(0)
        os.chmod(self.path_of(b"new/1.a"), 0o644)
        self.restart()
        self.assertEqual(self.shown(), [b"3.c"])

    def test_without_unique_id(self):
        """So does one that sessions do not see until Dovecot has given it a unique-id."""
        self.patch(dovecot_uidlist, "LOCK_TIMEOUT", 0)
        self.maildrops = HidingMaildrops(
            MaildirMaildrops(self.root, uidl="dovecot", run=run_inline)
        )
        lines = [b"3 V256 N9 G00\n", b"1 :1.a\n", b"2 :2.b\n", b"3 :3.c\n"]
        self.put(dovecot_uidlist.NAME, b"".join(lines))
        self.remove(0)
        del lines[1]
        self.put(dovecot_uidlist.NAME, b"".join(lines))
        self.put(dovecot_uidlist.LOCK_NAME)
        wait_for_clock_tick()
        self.remove(0)
        self.assertEqual(self.hidden(), {b"1.a", b"2.b"})

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
