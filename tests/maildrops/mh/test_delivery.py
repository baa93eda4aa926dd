"""popserv.maildrops.mh.delivery: messages with unique-ids, times and flags."""

import os
from hashlib import blake2b

from twisted.trial.unittest import TestCase

from popserv.errors import DeliveryRefused, MaildropUnavailable, TryLater
from popserv.maildrops.mh import counting, sequences
from popserv.maildrops.mh import delivery as module
from popserv.maildrops.mh.store import MHMaildrops
from popserv.messages.details import NO_DETAILS, Flags, MessageDetails
from popserv.testing import DeliveryContract
from popserv.testing.delivery_contract import body_of
from tests.maildrops.interrupted import InterruptedMixin
from tests.maildrops.limits import LimitMixin
from tests.maildrops.maildir.harness import before_each_call, failing, result, run_inline
from tests.maildrops.mh.harness import MHCase, deliver, numbers_in


class ContractTests(InterruptedMixin, DeliveryContract, TestCase):
    """MHMaildrops fulfils the contract of deliveries."""

    def make_delivery_store(self):
        """Return an empty store."""
        self.root = os.path.abspath(self.mktemp())
        os.makedirs(self.root)
        return self.restarted(None)

    def restarted(self, store):
        """Return another factory."""
        return MHMaildrops(self.root, run=run_inline)

    def deliver_externally(self, store):
        """Deliver as inc does."""
        deliver(os.path.join(self.root, "ann"), b"external\n")


class DeliveryTests(LimitMixin, MHCase):
    """Deliveries to Ann's folder."""

    def open_delivery(self, user=b"ann"):
        """Open a delivery."""
        return result(self.maildrops.open_delivery(user))

    def deliver_as(self, *messages):
        """Deliver messages, which are unique-ids and perhaps details."""
        delivery = self.open_delivery()
        try:
            for uid, *details in messages:
                body = body_of(uid + b"\n")
                result(delivery.deliver(uid, MessageDetails(*details), body))
            result(delivery.commit())
        finally:
            result(delivery.release())

    def unfinished(self):
        """Return the files of messages that have no number, or no flags."""
        return [name for name in os.listdir(self.path) if name.startswith(".popserv-new-")]

    def test_unique_ids(self):
        """Unique-ids of other servers, of up to 255 octets, stay; others are refused."""
        known = b"x" * 255
        self.deliver_as((known, 1_600_000_000))
        self.restart()
        self.assertEqual(self.uids(), [known])
        delivery = self.open_delivery()
        for uid in (b"a b", b"", b"x" * 256):
            with self.assertRaises(DeliveryRefused):
                result(delivery.deliver(uid, NO_DETAILS, None))
        result(delivery.release())

    def test_running_server(self):
        """A server that has the folder in memory shows the given unique-ids, and keeps its own."""
        server = self.maildrops
        self.deliver(b"1\n", b"2\n")
        own = self.uids()
        self.restart()
        self.deliver_as((b"a", 1_600_000_000), (b"b", 1_600_000_000))
        self.maildrops = server
        for _ in range(2):
            self.assertEqual(self.uids(), [*own, b"a", b"b"])
            self.deliver(b"3\n")
            own_new = self.uids()[-1]
            self.remove(4)
            self.assertNotIn(own_new, self.uids())
        self.restart()
        self.assertEqual(self.uids(), [*own, b"a", b"b"])

    def test_restored(self):
        """A backup of the folder keeps given unique-ids, although its files have other inodes."""
        self.deliver_as((b"a", 1_600_000_000), (b"b", 1_600_000_001))
        os.rename(self.path, self.path + ".old")
        os.makedirs(self.path)
        for name in os.listdir(self.path + ".old"):
            source = os.path.join(self.path + ".old", name)
            with open(source, "rb") as old, open(self.file(name), "wb") as new:
                new.write(old.read())
            os.utime(self.file(name), ns=(0, os.stat(source).st_mtime_ns))
        for _ in range(2):
            self.restart()
            self.assertEqual(self.uids(), [b"a", b"b"])

    def test_numbers(self):
        """A number that a program without nmh's lock takes meanwhile is left to it."""
        taken = []

        def take(_name):
            if not taken:
                taken.append(deliver(self.path, b"other\n"))

        with before_each_call(os, "link", take):
            self.deliver_as((b"a", 5), (b"b", 6))
        self.assertEqual(numbers_in(self.path), [1, 2, 3])
        self.assertEqual(self.uids()[1:], [b"a", b"b"])

    def test_without_flags(self):
        """A message whose flags could not be written gets them by the next delivery."""
        messages = ((b"a", 5, Flags.FLAGGED), (b"b", 6))
        with failing(module, "set_flags", OSError(28, "full")), self.assertRaises(OSError):
            self.deliver_as(*messages)
        self.assertEqual(numbers_in(self.path), [1, 2])
        self.deliver_as(*messages, *messages)
        self.assertIn(b"flagged: 1\n", self.sequences())
        self.assertEqual(self.uids(), [b"a", b"b"])
        self.assertEqual(self.unfinished(), [])

    def test_name(self):
        """A message without flags has the same name in each version, so that others remove it."""
        digest = blake2b(b"a", digest_size=16).hexdigest()
        delivery = self.open_delivery()
        result(delivery.deliver(b"a", NO_DETAILS, body_of(b"a\n")))
        self.assertEqual(self.unfinished(), [f".popserv-new-{digest}"])
        result(delivery.release())

    def test_not_committed(self):
        """A message that was not committed leaves no file."""
        delivery = self.open_delivery()
        result(delivery.deliver(b"a", NO_DETAILS, body_of(b"a\n")))
        [name] = self.unfinished()
        self.assertEqual(os.stat(self.file(name)).st_mode & 0o777, 0o600)
        result(delivery.release())
        self.assertEqual(self.unfinished(), [])
        self.assertEqual(self.read_all(), [])

    def test_not_written(self):
        """A message for which there is no room leaves no file."""
        delivery = self.open_delivery()
        with failing(os, "write", OSError(28, "full")), self.assertRaises(OSError):
            result(delivery.deliver(b"a", NO_DETAILS, body_of(b"a\n")))
        self.assertEqual(self.unfinished(), [])
        result(delivery.release())

    def test_owner(self):
        """A message belongs to the owner of the folder."""
        os.chown(self.path, 12345, 8)
        self.deliver_as((b"a",))
        status = os.stat(self.file(1))
        self.assertEqual((status.st_uid, status.st_gid), (12345, 8))

    def test_synced(self):
        """Each step is on disk before the next one relies on it.

        The message is, and the index file with its unique-id, before it gets its number, and its
        flags are before its other name is removed.
        """
        delivery = self.open_delivery()
        steps = self.steps()
        result(delivery.deliver(b"a", MessageDetails(0, Flags.FLAGGED), body_of(b"a\n")))
        result(delivery.commit())
        message = os.fsdecode(module._name_of(b"a"))
        index = ["unlink", ".popserv-index.tmp", "rename", "ann"]
        self.assertEqual(steps, [message, *index, "link", ".mh_sequences", "unlink", "ann"])
        result(delivery.release())

    def test_unfinished_links(self):
        """What an interrupted delivery has left is removed, even if it has other names."""
        with open(self.file(".popserv-new-1"), "wb"):
            pass
        os.link(self.file(".popserv-new-1"), os.path.join(self.root, "backup"))
        os.symlink("nowhere", self.file(".popserv-new-2"))
        result(self.open_delivery().release())
        self.assertEqual(self.unfinished(), [])

    def test_links(self):
        """Nothing is written through a link, and nothing that a link leads to gets a number."""
        other = os.path.join(self.root, "other")
        delivery = self.open_delivery()
        os.symlink(other, self.file(os.fsdecode(module._name_of(b"a"))))
        with self.assertRaises(OSError):
            result(delivery.deliver(b"a", NO_DETAILS, body_of(b"a\n")))
        self.assertFalse(os.path.exists(other))
        result(delivery.release())
        with open(other, "wb"):
            pass
        os.symlink(other, self.file("link"))
        with self.folder() as fd:
            module.link_next(fd, b"link", 1)
        self.assertTrue(os.path.islink(self.file(1)))

    def test_fault_at_commit(self):
        """If a message cannot get a number, the error names the file that cannot be written."""
        for owner, name, path in (
            (module.index_file, "save", ".popserv-index"),
            (module, "set_flags", ".mh_sequences"),
        ):
            for error in (OSError(28, "full"), OSError(28, "full", b"file")):
                failed = failing(owner, name, error)
                with failed, self.assertRaises(OSError) as raised:
                    self.deliver_as((b"a",))
                path = path if error.filename is None else "file"
                self.assertIn(f"{self.file(path)}", str(raised.exception))

    def test_removed_without_flags(self):
        """A message that had no flags yet and was removed leaves nothing."""
        with failing(module, "set_flags", OSError(28, "full")), self.assertRaises(OSError):
            self.deliver_as((b"a", 5))
        os.unlink(self.file(1))
        result(self.open_delivery().release())
        self.assertEqual(self.unfinished(), [])

    def test_too_many_sequences(self):
        """Sequences that would be too long to be read again are not written."""
        self.patch(sequences, "_MAX_OCTETS", 10)
        with self.assertRaises(OSError) as raised:
            self.deliver_as((b"a", 5, Flags.FLAGGED))
        self.assertIn("too large", str(raised.exception))

    def test_cannot_open(self):
        """A folder that cannot be created or examined is refused, and one that vanishes for now."""
        self.assertRaises(MaildropUnavailable, self.open_delivery, b".x")
        with failing(os, "mkdir", PermissionError(13, "denied")):
            self.assertRaises(MaildropUnavailable, self.open_delivery, b"bob")
        with open(self.file(".popserv-new-1"), "wb"):
            pass
        with failing(os, "unlink", PermissionError(13, "denied")):
            self.assertRaises(MaildropUnavailable, self.open_delivery)
        self.patch(self.maildrops, "_open", lambda *_, **__: None)
        self.assertRaises(TryLater, self.open_delivery)

    def test_unreadable(self):
        """A folder with a message that may not be read is refused: it could be one of these."""
        self.deliver_as((b"one",))
        denied = PermissionError(13, "Permission denied", b"1")
        with failing(counting, "count_file", denied):
            with self.assertRaises(MaildropUnavailable) as raised:
                self.open_delivery()
            self.assertIn(f"{self.path}/1", str(raised.exception.__cause__))
            with self.session() as mailbox:
                self.assertEqual(len(mailbox.messages), 0)
        delivery = self.open_delivery()
        self.assertFalse(result(delivery.deliver(b"one", NO_DETAILS, body_of(b"one\n"))))
        result(delivery.release())

    def test_not_found(self):
        """So is a folder with a message that is said not to exist, although it does."""
        self.deliver_as((b"one",))
        missing = FileNotFoundError(2, "No such file or directory")
        with failing(os, "open", missing, lambda name, *_: name == b"1"):
            with self.assertRaises(TryLater) as raised:
                self.open_delivery()
            self.assertIn(f"{self.path}/1: Stale file handle", str(raised.exception.__cause__))
        with self.session() as mailbox:
            self.assertEqual(len(mailbox.messages), 1)

    def test_details(self):
        """The details are the times of the files, and flags by sequences."""
        self.deliver(b"1\n", b"2\n")
        self.sequences(b"flagged: 2\n")
        mailbox = result(self.maildrops.open_maildrop(b"ann"))
        os.unlink(self.file(1))
        times = mailbox.delivery_times()
        expected = [MessageDetails(times[0]), MessageDetails(times[1], Flags.FLAGGED)]
        self.assertEqual(mailbox.details(), expected)
        result(mailbox.release())

    def test_users(self):
        """The users are those who have a folder."""
        self.assertEqual(result(self.maildrops.users()), [b"ann"])
