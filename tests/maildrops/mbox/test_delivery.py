"""popserv.maildrops.mbox.delivery: messages with unique-ids, times and flags."""

import contextlib
import errno
import os
import re

from twisted.trial.unittest import TestCase

from popserv.errors import MaildropBusy, MaildropUnavailable, TryLater
from popserv.maildrops.mbox import mailbox as mailbox_module
from popserv.maildrops.mbox import spool
from popserv.maildrops.mbox.kind import FORMATS
from popserv.maildrops.mbox.store import MboxMaildrops
from popserv.messages.details import NO_DETAILS, Flags, MessageDetails
from popserv.testing import DeliveryContract
from popserv.testing.delivery_contract import body_of
from tests.maildrops.interrupted import InterruptedMixin
from tests.maildrops.maildir.harness import failing, result, run_inline
from tests.maildrops.mbox.harness import FROM_LINE, MboxCase, mbox_of, stored, wait_not

FIELDS = re.compile(rb"^(?:status|x-status|x-uidl|content-length): .*\r?\n", re.I | re.M)


class ContractTests(InterruptedMixin, DeliveryContract, TestCase):
    """MboxMaildrops fulfils the contract of deliveries."""

    kind = "mbox"
    flags = tuple(each for each in Flags if each is not Flags.FORWARDED)

    def make_delivery_store(self):
        """Return an empty store."""
        self.root = os.path.abspath(self.mktemp())
        os.makedirs(self.root)
        return self.restarted(None)

    def restarted(self, store):
        """Return another factory."""
        return MboxMaildrops(self.root, FORMATS[self.kind], run=run_inline, wait=wait_not)

    def original(self, message):
        """Remove the fields that were added."""
        return FIELDS.sub(b"", message)

    def clean(self):
        """Remove the dotlock, as if the process of this test had ended."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self.root, "ann.lock"))

    def deliver_externally(self, store):
        """Append as a delivery agent does."""
        with open(os.path.join(self.root, "ann"), "ab") as file:
            file.write(stored(b"Subject: external\n\n"))


class MboxrdContractTests(ContractTests):
    """So does a store of mboxrd files."""

    kind = "mboxrd"


class DeliveryTests(MboxCase):
    """Deliveries to Ann's file."""

    def open_delivery(self, user=b"ann"):
        """Open a delivery."""
        return result(self.maildrops.open_delivery(user))

    def test_locked(self):
        """While another program has a lock, what was delivered waits, and then fails."""
        delivery = self.open_delivery()
        result(delivery.deliver(b"x", NO_DETAILS, body_of(b"x\n")))
        with open(self.path + ".lock", "w") as file:
            file.write("1")
        self.assertRaises(MaildropBusy, result, delivery.commit())
        os.unlink(self.path + ".lock")
        result(delivery.commit())
        result(delivery.release())
        self.assertEqual(self.uids(), [b"x"])

    def test_no_room(self):
        """A journal that cannot be written is an error that names the file."""
        delivery = self.open_delivery()
        with failing(os, "pwrite", OSError(28, "No space")), self.assertRaises(OSError) as raised:
            result(delivery.deliver(b"x", NO_DETAILS, body_of(b"x\n")))
        self.assertIn(self.path, str(raised.exception))
        result(delivery.release())
        self.assertEqual(os.listdir(self.root), ["ann"])

    def test_known(self):
        """A message whose unique-id is there, or is about to be, is not delivered again."""
        for expected in (True, False):
            delivery = self.open_delivery()
            for is_delivered in (expected, False):
                delivered = result(delivery.deliver(b"x", NO_DETAILS, body_of(b"x\n")))
                self.assertIs(delivered, is_delivered)
            result(delivery.commit())
            result(delivery.release())
        self.assertEqual(self.uids(), [b"x"])

    def test_no_room_at_commit(self):
        """A message that cannot be appended is an error that names the file, and is not there."""
        delivery = self.open_delivery()
        result(delivery.deliver(b"x", NO_DETAILS, body_of(b"x\n")))
        with failing(os, "pwrite", OSError(28, "No space")), self.assertRaises(OSError) as raised:
            result(delivery.commit())
        self.assertIn(self.path, str(raised.exception))
        result(delivery.release())
        self.assertEqual(self.read_all(), [])

    def test_not_writable(self):
        """Nothing is appended to a file that the server may only read."""
        delivery = self.open_delivery()
        result(delivery.deliver(b"x", NO_DETAILS, body_of(b"x\n")))
        self.patch(spool.Spool, "is_writable", lambda _: False)
        self.assertRaises(OSError, result, delivery.commit())
        result(delivery.release())
        self.assertEqual(self.contents(), b"")

    def test_replaced(self):
        """Messages are appended to the file that another program has put in place of this one."""
        self.write(mbox_of([b"1\n"]))
        delivery = self.open_delivery()
        result(delivery.deliver(b"x", NO_DETAILS, body_of(b"x\n")))
        os.rename(self.path, self.path + ".old")
        self.write(mbox_of([b"2\n"]))
        result(delivery.commit())
        result(delivery.release())
        self.assertEqual(self.read_all(), [b"2\n", b"x\nX-UIDL: x\n"])

    def test_owner(self):
        """A file belongs to the owner of the directory or, in one of root's, to the user."""
        for owner, user, expected in (
            (12345, b"nobody", (12345, 0o600)),
            (0, b"nobody", (65534, 0o660)),
            (0, b"no-such-user", (0, 0o600)),
        ):
            os.chown(self.root, owner, 8)
            result(self.open_delivery(user).release())
            path = os.path.join(self.root, user.decode())
            status = os.stat(path)
            self.assertEqual((status.st_uid, status.st_mode & 0o777), expected)
            self.assertEqual(status.st_gid, 8)
            os.unlink(path)

    def test_cannot_open(self):
        """A file that cannot be created is refused, and one that vanishes for now."""
        self.assertRaises(MaildropUnavailable, self.open_delivery, b".x")
        with failing(spool, "_give", OSError(5, "I/O error")):
            self.assertRaises(MaildropUnavailable, self.open_delivery)
        self.patch(self.maildrops, "_create", lambda user: None)
        os.unlink(self.path)
        self.assertRaises(TryLater, self.open_delivery)

    def test_users(self):
        """The users are those who have a file; dotlocks are no mail."""
        os.makedirs(os.path.join(self.root, "directory"))
        for name in ("ann", "ann.lock", ".bob.popserv-append"):
            with open(os.path.join(self.root, name), "w"):
                pass
        self.assertEqual(result(self.maildrops.users()), [b"ann"])

    def test_restrictions(self):
        """What a format does not keep is told, with the remedy."""
        told = {
            kind: " ".join(MboxMaildrops(self.root, each).restrictions)
            for kind, each in FORMATS.items()
        }
        self.assertEqual(told["mbox"], told["mboxrd"])
        self.assertIn("Maildir", told["mbox"])
        self.assertIn("mboxrd", told["mboxo"])
        self.assertNotIn("mboxrd", told["mbox"])


class DetailsTests(MboxCase):
    """The details of the messages of a session."""

    def setUp(self):
        """Write two messages."""
        super().setUp()
        self.write(mbox_of([b"Status: RO\nX-Status: F\n\n1\n", b"\n2\n"]))

    def test_details(self):
        """They are found in the present file, and nothing of messages that were removed."""
        with self.session() as mailbox:
            first, second = mailbox.details()
            self.assertEqual(first.flags, Flags.SEEN | Flags.FLAGGED)
            self.assertEqual(second, MessageDetails(first.delivered + 1))
            self.write(self.contents()[self.contents().rindex(b"From ") :])
            self.assertEqual(mailbox.details(), [NO_DETAILS, second])

    def test_next_message(self):
        """The flags of a message without a blank line are its own, and not those of the next."""
        self.write(FROM_LINE % 0 + b"A: b\n" + stored(b"Status: RO\n\n2\n", 1))
        with self.session() as mailbox:
            flags = [each.flags for each in mailbox.details()]
        self.assertEqual(flags, [Flags.NONE, Flags.SEEN])

    def test_locked(self):
        """While another program has a lock, they wait, and then fail."""
        waits = []
        self.patch(mailbox_module.time, "sleep", waits.append)
        with self.session() as mailbox:
            with open(self.path + ".lock", "w") as file:
                file.write("1")
            self.assertRaises(MaildropBusy, mailbox.details)
            with failing(os, "fstat", OSError(errno.EIO, "I/O error")):
                error = self.assertRaises(OSError, mailbox.details)
            self.assertEqual(str(error), f"{self.path}: I/O error")
            os.unlink(self.path + ".lock")
            self.assertEqual(len(mailbox.details()), 2)
        self.assertGreater(sum(waits), 5)
