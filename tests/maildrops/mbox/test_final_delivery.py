"""popserv.maildrops.mbox.final_delivery: new mail in mbox files."""

import errno
import io
import os
import time
from itertools import count

from twisted.trial.unittest import TestCase

from popserv.core.user_settings import NO_SETTINGS, UserSettings
from popserv.errors import DeliveryRefused, MaildropBusy
from popserv.maildrops.layout import Layout
from popserv.maildrops.mbox.final_delivery import deliver
from popserv.maildrops.mbox.from_line import delivery_time
from popserv.maildrops.mbox.kind import FORMATS
from popserv.maildrops.mbox.spool import Spool
from popserv.maildrops.mbox.store import MboxMaildrops
from popserv.runtime.file_credentials import NOBODY, acting_as
from popserv.testing import NewMailContract
from tests.live.harness import temporary_directory
from tests.maildrops.interrupted import Killed, interposed
from tests.maildrops.maildir.harness import read_message, result, run_inline
from tests.maildrops.mbox.harness import MboxCase, wait_not
from tests.runtime.harness import ANN, CredentialsCase

MESSAGE = b"Return-Path: <bob@example.org>\nSubject: x\n\nFrom here\n" + b"text\n" * 5000


class ContractTests(NewMailContract, TestCase):
    """MboxMaildrops fulfils the contract of new mail."""

    kind = "mbox"

    def make_new_mail_store(self):
        """Return an empty store."""
        self.root = os.path.abspath(self.mktemp())
        os.makedirs(self.root)
        return self.restarted(None)

    def restarted(self, store):
        """Return another factory."""
        return MboxMaildrops(self.root, FORMATS[self.kind], run=run_inline, wait=wait_not)


class MboxrdContractTests(ContractTests):
    """So does a store of mboxrd files."""

    kind = "mboxrd"


class FinalDeliveryTests(MboxCase):
    """Deliveries to Ann's file."""

    def deliver(self, user=b"ann", settings=NO_SETTINGS, message=MESSAGE):
        """Deliver a message."""
        result(self.maildrops.deliver_new(user, settings, io.BytesIO(message)))

    def messages(self):
        """Return the messages of a session with a new store, without Content-Length."""
        self.restart()
        return [
            b"".join(
                line for line in octets.splitlines(True) if not line.startswith(b"Content-Length")
            )
            for octets in self.read_all()
        ]

    def read_all(self):
        """Return the messages that a session shows."""
        mailbox = result(self.maildrops.open_maildrop(b"ann"))
        try:
            return [read_message(mailbox, at) for at in range(len(mailbox.messages))]
        finally:
            result(mailbox.release())

    def test_fields(self):
        """What a sender has written into fields of the file is dropped: state, and unique-ids."""
        state = b"Status: RO\nX-Status: D\nX-UIDL: mine\nx-uidl:\n yes\nX-IMAPbase: 1 9\nLines: 5\n"
        message = b"Return-Path: <a@b>\n%bSubject: x\n\nStatus: RO\n"
        for kind in FORMATS.values():
            self.format = kind
            self.restart()
            self.deliver(message=message % state)
        self.assertEqual(self.messages(), [message % b""] * len(FORMATS))
        self.assertNotIn(b"mine", self.uids())
        with self.session() as mailbox:
            self.assertEqual(result(mailbox.last_retrieved()), None)

    def test_from_line(self):
        """The From_ line has the sender, and the time of the delivery."""
        before = time.time()
        self.deliver()
        with open(self.path, "rb") as file:
            line = file.readline()
        self.assertTrue(line.startswith(b"From bob@example.org "))
        self.assertGreaterEqual(delivery_time(line), int(before))

    def test_path(self):
        """A user's mail goes to the user's own path."""
        settings = UserSettings(maildrop=os.fsencode(self.path))
        self.assertFalse(result(self.maildrops.has_maildrop(b"bob", settings)))
        self.deliver(b"bob", settings)
        self.assertTrue(result(self.maildrops.has_maildrop(b"bob", settings)))
        self.assertEqual(self.messages(), [MESSAGE])

    def test_locked(self):
        """While another program has a lock, the mail waits, and is then refused for now."""
        with open(self.path + ".lock", "w") as file:
            file.write("1")
        self.assertRaises(MaildropBusy, self.deliver)
        os.unlink(self.path + ".lock")
        self.deliver()
        self.assertEqual(self.messages(), [MESSAGE])

    def test_replaced(self):
        """Mail is not appended to a file that another program replaces while it is opened."""
        self.patch(Spool, "is_at_path", lambda spool: False)
        self.assertRaises(MaildropBusy, self.deliver)

    def test_read_only(self):
        """A file that cannot be written is an error that names it."""
        self.patch(Spool, "is_writable", lambda spool: False)
        with self.assertRaises(OSError) as raised:
            self.deliver()
        self.assertIn(self.path, str(raised.exception))

    def test_not_a_file(self):
        """Nor is anything but a regular file written."""
        os.mkdir(self.path)
        self.assertRaises(OSError, self.deliver)
        os.rmdir(self.path)
        os.mkfifo(self.path)
        self.assertRaises(OSError, self.deliver)

    def test_header_too_large(self):
        """A message that the file cannot keep is refused."""
        self.assertRaises(DeliveryRefused, self.deliver, message=b"x: y\n" * 300_000)
        self.assertEqual(os.listdir(self.root), ["ann"])

    def test_after_interruption(self):
        """What an interrupted delivery has left is removed by the next one."""

        def before(name, at):
            if name == "fsync" and os.path.exists(self.path) and os.path.getsize(self.path):
                raise Killed

        self.assertRaises(Killed, self.deliver_interrupted, before)
        self.assertGreater(os.path.getsize(self.path), 0)
        self.deliver()
        self.assertEqual(self.messages(), [MESSAGE])

    def deliver_interrupted(self, before):
        """Deliver a message, and call a function before each system call."""
        with interposed(before):
            self.deliver()

    def test_interrupted(self):
        """Killed at any system call, or without room, there are whole messages only."""
        for error in (Killed(), OSError(errno.ENOSPC, "full")):
            for number in count():

                def before(name, at, number=number, error=error):
                    if at >= number and (name != "unlink" or isinstance(error, Killed)):
                        raise error

                is_done = True
                try:
                    self.deliver_interrupted(before)
                except (Killed, OSError):
                    is_done = False
                if os.path.exists(self.path + ".lock"):
                    os.unlink(self.path + ".lock")
                if os.path.exists(self.path):
                    self.assertLessEqual(set(self.messages()), {MESSAGE})
                if is_done:
                    break
            self.assertGreater(number, 8)


class SpoolTests(CredentialsCase):
    """A spool directory of root's, such as /var/mail, in which only its group may write."""

    def test_as_owner(self):
        """The user has that group for the files beside the mbox file; new ones are the user's."""
        spool = temporary_directory(self)
        os.chown(spool, 0, 8)
        spool.chmod(0o2775)
        layout = Layout(str(spool))
        file = spool / "ann"
        file.touch(0o600)
        os.chown(file, ANN.uid, ANN.gid)
        message = b"Subject: x\n\nbody\n"
        with acting_as(ANN):
            for user in (b"ann", b"ann", b"new"):
                deliver(layout, user, FORMATS["mboxrd"], io.BytesIO(message))
        self.assertEqual(file.read_bytes().count(message), 2)
        self.assertEqual((spool / "new").read_bytes().count(message), 1)
        self.assertEqual({each.name for each in spool.iterdir()}, {"ann", "new"})
        self.assertEqual([(spool / "new").stat().st_uid, file.stat().st_gid], [ANN.uid, ANN.gid])

    def test_as_nobody(self):
        """A file that was made for its user is used as that user; nobody gets one of root's."""
        spool = temporary_directory(self)
        os.chown(spool, 0, 8)
        spool.chmod(0o2775)
        layout = Layout(str(spool))
        message = b"Subject: x\n\nbody\n"
        for _ in range(2):
            with acting_as(NOBODY):
                deliver(layout, b"daemon", FORMATS["mboxrd"], io.BytesIO(message))
        file = spool / "daemon"
        self.assertEqual((file.owner(), file.read_bytes().count(message)), ("daemon", 2))
        for exists in (False, True):
            with acting_as(NOBODY), self.assertRaises(OSError) as refused:
                deliver(layout, b"root", FORMATS["mboxrd"], io.BytesIO(message))
            self.assertEqual("create the file" in str(refused.exception), not exists)
            (spool / "root").touch(0o600)
        self.assertEqual((spool / "root").read_bytes(), b"")
