"""Deliveries that are interrupted at any system call, or by a full disk, and then repeated."""

import errno
import os
from contextlib import ExitStack, contextmanager
from itertools import count
from unittest import mock

from popserv.errors import POPError
from popserv.messages.details import Flags, MessageDetails
from popserv.testing.delivery_contract import body_of
from tests.maildrops.maildir.harness import read_message, result

CHANGES = (
    *("mkdir", "link", "rename", "unlink", "write", "pwrite", "ftruncate", "utime"),
    *("fchown", "fchmod", "chown", "fsync", "fdatasync"),
)
"""The system calls that change files, beside ``open``."""

MESSAGES = [
    (b"first", MessageDetails(1_700_000_000, Flags.SEEN), b"Subject: 1\n\nFrom x\n"),
    (b"2.second", MessageDetails(1_700_000_000), b"Subject: 2\r\n\r\nbody" * 500),
    (b"third", MessageDetails(1_600_000_000, Flags.FLAGGED), b""),
    (b"1800000000.M1.h", MessageDetails(1_700_000_009, Flags.SEEN | Flags.ANSWERED), b"x: 4\n\n"),
]


class Killed(BaseException):
    """The process was killed."""


@contextmanager
def interposed(before):
    """Call a function before each system call that changes a file; it is told which, and how often.

    It may raise, or return a number of octets, of which alone a write then writes.
    """
    calls = count()

    def wrap(name):
        real = getattr(os, name)

        def function(*args, **kwargs):
            if name == "open" and not args[1] & os.O_CREAT:
                return real(*args, **kwargs)
            part = before(name, next(calls))
            if part is not None and name in ("write", "pwrite"):
                real(args[0], bytes(args[1])[:part], *args[2:])
                raise Killed
            return real(*args, **kwargs)

        return mock.patch.object(os, name, function)

    with ExitStack() as stack:
        for name in (*CHANGES, "open"):
            stack.enter_context(wrap(name))
        yield


class InterruptedMixin:
    """Tests for the store of a DeliveryContract whose files are changed by Python's ``os``."""

    def clean(self):
        """Do what happens after the process was killed, as that locks become stale."""

    def deliver_externally(self, store):
        """Deliver a message as another program does."""
        raise NotImplementedError

    def run_delivery(self, store):
        """Deliver all messages, and commit after two of them."""
        delivery = result(store.open_delivery(b"ann"))
        try:
            for number, (uid, details, message) in enumerate(MESSAGES):
                result(delivery.deliver(uid, details, body_of(message)))
                if number % 2:
                    result(delivery.commit())
        finally:
            result(delivery.release())

    def snapshot(self, store):
        """Return the unique-ids, octets and details that a session shows."""
        mailbox = result(store.open_maildrop(b"ann"))
        try:
            if not len(mailbox.messages):
                return []
            messages = [
                (uid, self.original(read_message(mailbox, at)), details)
                for at, (uid, details) in enumerate(
                    zip(mailbox.messages.uids, mailbox.details(), strict=True)
                )
            ]
        finally:
            result(mailbox.release())
        return messages

    def check_part(self, store, expected):
        """Check that what is shown are messages of the whole copy, in order; return the others."""
        shown = self.snapshot(store)
        by_uid = {uid: octets for uid, octets, _ in expected}
        ours = [(uid, octets) for uid, octets, _ in shown if uid in by_uid]
        self.assertEqual(ours, [(uid, by_uid[uid]) for uid in list(by_uid)[: len(ours)]])
        return [each for each in shown if each[0] not in by_uid]

    def run_interrupted(self, before, with_delivery, expected):
        """Interrupt, look with a session, and repeat; return whether it was interrupted."""
        store = self.make_delivery_store()
        interrupted = False
        try:
            with interposed(before):
                self.run_delivery(store)
        except (Killed, OSError, POPError):
            interrupted = True
        self.clean()
        if with_delivery:
            self.deliver_externally(store)
        others = self.check_part(self.restarted(store), expected)
        self.assertEqual(len(others), int(with_delivery))
        again = self.restarted(store)
        self.run_delivery(again)
        shown = self.snapshot(self.restarted(store))
        uids = [uid for uid, _, _ in others]
        self.assertEqual([each for each in shown if each[0] not in uids], expected)
        # In an MH folder, a message becomes read when another one is unseen.
        left = [(uid, octets) for uid, octets, _ in shown if uid in uids]
        self.assertEqual(left, [(uid, octets) for uid, octets, _ in others])
        return interrupted

    def whole(self):
        """Return what an uninterrupted delivery leaves."""
        store = self.make_delivery_store()
        self.run_delivery(store)
        return self.snapshot(self.restarted(store))

    def test_killed(self):
        """Killed at any system call, whole messages are there; repeated, all are, each once."""
        expected = self.whole()
        for with_delivery, part in ((False, None), (True, None), (True, 7)):
            for number in count():

                def before(name, at, number=number, part=part):
                    if at == number and part is not None and name in ("write", "pwrite"):
                        return part
                    if at >= number:
                        raise Killed
                    return None

                with self.subTest(number=number, part=part, with_delivery=with_delivery):
                    if not self.run_interrupted(before, with_delivery, expected):
                        break
            self.assertGreater(number, 10)

    def test_full_disk(self):
        """If the disk is full from any system call on, nothing is torn; repeated, all is there."""
        expected = self.whole()
        needs_room = ("open", "mkdir", "link", "rename", "write", "pwrite", "fsync")
        for number in count():

            def before(name, at, number=number):
                if at >= number and name in needs_room:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            with self.subTest(number=number):
                if not self.run_interrupted(before, False, expected):
                    break
        self.assertGreater(number, 10)
