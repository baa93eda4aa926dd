"""Sessions in which one system call after the other fails: nothing is lost, the log has the path.

What the store writes in a Maildir are ``popserv-sizes``, ``popserv-uidl``, ``popserv-hidden``,
``dovecot-uidlist`` and its lock, ``maildirsize``, the folder of removed messages, and names.
"""

import contextlib
import errno
import os
from contextlib import ExitStack, contextmanager
from itertools import count
from unittest import mock

from twisted.internet.testing import EventLoggingObserver
from twisted.logger import LogLevel, formatEvent, globalLogPublisher

from popserv.errors import MaildropUnavailable, POPError, RemovalFailed, TryLater
from popserv.maildrops.maildir.hiding import HidingMaildrops
from popserv.maildrops.maildir.listing import index
from popserv.maildrops.maildir.store import MaildirMaildrops
from popserv.maildrops.maildir.unique_ids import dovecot_uidlist, pinning
from tests.maildrops.maildir.harness import (
    DIRECTORY,
    MaildirCase,
    read_message,
    result,
    run_inline,
    uids_of,
)

WRITING = ("open", "write", "mkdir", "link", "rename", "fsync", "fdatasync")
"""Calls that fail if there is no room; ``open`` only if it creates a file."""

READING = ("open", "read", "pread", "scandir", "stat", "fstat", "unlink", "rename", "link")
"""Calls that fail if a disk is broken."""

OPTIONS = (
    ("filename", "remove"),
    ("filename", "move"),
    ("dovecot", "remove"),
    ("courier", "keep"),
)
"""The values of --uidl and --deleted."""

MESSAGES = {b"1.a": b"first\n", b"2.b": b"second\n", b"3.c": b"x\n" * 70_000, b"4.d": b"last\n"}


class FaultTests(MaildirCase):
    """A Maildir with all files that popserv and other servers keep there."""

    def prepare(self):
        """Make the Maildir: one message has a pin, and one a duplicate."""
        self.root = os.path.abspath(self.mktemp())
        self.make_maildir()
        self.put(b"new/1.a", MESSAGES[b"1.a"])
        self.put(b"cur/2.b:2,F", MESSAGES[b"2.b"])
        self.put(b"new/3.c", MESSAGES[b"3.c"])
        self.put(b"cur/4.d:2,S", MESSAGES[b"4.d"])
        self.put(b"new/4.d", b"duplicate\n")
        os.utime(self.path_of(b"cur/4.d:2,S"), ns=(0, 0))
        self.put(b"maildirsize", b"100000S\n10 1\n")
        self.put(dovecot_uidlist.NAME, b"3 V7 N3 G00\n1 :1.a\n2 :2.b\n")
        fd = os.open(self.path_of(b""), DIRECTORY)
        pinning.pin(fd, {b"2.b": b"pinned"}, [b"2.b"])
        os.close(fd)

    def make_store(self, uidl, deleted):
        """Return a store."""
        trash = ".Trash" if deleted == "move" else ""
        store = MaildirMaildrops(self.root, uidl=uidl, trash=trash, run=run_inline)
        return HidingMaildrops(store) if deleted == "keep" else store

    @contextmanager
    def failing_call(self, names, code, number):
        """Let the call with this number fail; yield a list to which its name is added."""
        numbers, failed = count(), []

        def wrap(name, real):
            def function(*args, **kwargs):
                is_counted = name != "open" or names is READING or args[1] & os.O_CREAT
                if is_counted and next(numbers) == number:
                    failed.append((name, args[:1]))
                    raise OSError(code, os.strerror(code))
                return real(*args, **kwargs)

            return function

        with ExitStack() as stack:
            for name in names:
                stack.enter_context(mock.patch.object(os, name, wrap(name, getattr(os, name))))
            yield failed

    def session_with_fault(self, store, failing):
        """Use a mailbox, and remove the second message.

        Return the unique-ids, that of the message if it was removed, the causes of the errors that
        the client was told, and the call that has failed.
        """
        removed, causes = None, []
        with failing as failed:
            try:
                mailbox = result(store.open_maildrop(b"ann"))
            except (MaildropUnavailable, TryLater) as error:
                return [], removed, [error.__cause__], failed
            uids = uids_of(mailbox)
            for position, message in enumerate(mailbox.messages):
                # It reads nothing if that fails.
                mailbox.read_cached(message, 1 << 16)
                try:
                    body = read_message(mailbox, position)
                    self.assertEqual(len(body.replace(b"\n", b"\r\n")), message.octets)
                except POPError as error:
                    causes.append(error.__cause__)
            result(mailbox.record_retrieved(mailbox.messages[:1]))
            try:
                result(mailbox.remove([each for each in mailbox.messages if each.uid == uids[1]]))
                removed = uids[1]
            except RemovalFailed as error:
                causes.append(error.__cause__)
            result(mailbox.release())
        return uids, removed, causes, failed

    def contents(self):
        """Return the contents of all message files, wherever they are."""
        found = []
        for folder in (b"new", b"cur", b".Trash/cur"):
            with contextlib.suppress(FileNotFoundError):
                for name in os.listdir(self.path_of(folder)):
                    with open(self.path_of(b"%b/%b" % (folder, name)), "rb") as file:
                        found.append(file.read())
        return found

    def lost(self, failed, shown):
        """Return the unique-id of the message that is gone although QUIT could not be sure."""
        return shown[1:2] if failed and "fsync" in failed[0][0] else []

    def check(self, names, code):
        """Let each call fail in turn, with each combination of options."""
        self.patch(index, "SAVE_THRESHOLD", 1)
        for options in OPTIONS:
            for number in count(-1):
                self.prepare()
                log = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)
                store = self.make_store(*options)
                failing = self.failing_call(names, code, number)
                shown, removed, causes, failed = self.session_with_fault(store, failing)
                globalLogPublisher.removeObserver(log)
                if number >= 0 and not failed:
                    break
                place = (*options, number, failed)
                for cause in causes:
                    self.assertIn(self.root, str(cause), place)
                for event in log:
                    if event["log_level"] >= LogLevel.warn and "renamed to" not in str(event):
                        self.assertIn(self.root, formatEvent(event), place)
                # What was not removed is there, and nothing is hidden that was not removed.
                present = self.contents()
                for body in MESSAGES.values():
                    if body not in present:
                        self.assertEqual(body, MESSAGES[b"2.b"], place)
                        self.assertTrue(removed or "fsync" in failed[0][0], place)
                with self.session(maildrops=self.make_store(*options)) as mailbox:
                    uids = uids_of(mailbox)
                kept = {*shown} - {removed, *self.lost(failed, shown)}
                self.assertLessEqual(kept, {*uids}, place)
                self.assertNotIn(removed, uids, place)

    def test_no_room(self):
        """Without room each client is told what was not removed, and each message stays."""
        self.check(WRITING, errno.ENOSPC)

    def test_broken_disk(self):
        """With a broken disk each refusal is clear, and each message stays."""
        self.check(READING, errno.EIO)
