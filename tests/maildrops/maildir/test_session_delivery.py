"""popserv.maildrops.maildir.session_delivery: messages with unique-ids, times and flags."""

import errno
import os
from hashlib import blake2b
from unittest import mock

from twisted.trial.unittest import TestCase

from popserv.errors import DeliveryRefused, MaildropUnavailable, TryLater
from popserv.maildrops.maildir import session_delivery, store
from popserv.maildrops.maildir.store import MaildirMaildrops
from popserv.maildrops.maildir.unique_ids import pinned_file
from popserv.messages.details import NO_DETAILS, Flags, MessageDetails
from popserv.testing import DeliveryContract
from popserv.testing.delivery_contract import body_of
from tests.maildrops.interrupted import InterruptedMixin
from tests.maildrops.limits import LimitMixin
from tests.maildrops.maildir.harness import (
    DIRECTORY,
    SPECIAL_FILES,
    MaildirCase,
    failing,
    result,
    run_inline,
)


class ContractTests(InterruptedMixin, DeliveryContract, TestCase):
    """MaildirMaildrops fulfils the contract of deliveries."""

    def make_delivery_store(self):
        """Return an empty store."""
        self.root = os.path.abspath(self.mktemp())
        os.makedirs(self.root)
        return self.restarted(None)

    def restarted(self, store):
        """Return another factory."""
        return MaildirMaildrops(self.root, run=run_inline)

    def deliver_externally(self, store):
        """Deliver as a delivery agent does."""
        for folder in ("new", "cur", "tmp"):
            os.makedirs(os.path.join(self.root, "ann", folder), exist_ok=True)
        with open(os.path.join(self.root, "ann", "new", "1900000000.M1.h"), "wb") as file:
            file.write(b"external\n")


class DeliveryTests(LimitMixin, MaildirCase):
    """Deliveries to Ann's Maildir."""

    def deliver(self, *messages):
        """Deliver messages, which are unique-ids, times and perhaps flags."""
        delivery = result(self.maildrops.open_delivery(b"ann"))
        try:
            for uid, *details in messages:
                result(delivery.deliver(uid, MessageDetails(*details), body_of(uid + b"\n")))
            result(delivery.commit())
        finally:
            result(delivery.release())

    def uids(self):
        """Return the unique-ids of a session."""
        self.restart()
        with self.session() as mailbox:
            return list(mailbox.messages.uids)

    def test_names(self):
        """Base names are in the order of delivery, with the time if that allows it."""
        self.deliver(
            (b"zz", 50.9),
            (b"yy", 50),
            (b"40.M1.a", 40),
            (b"60.M1.a", 70),
            (b"xx", 60),
            (b"ww", 0),
            (b"90.M1/a", 90),
            (b"91.b;2,S", 91),
            (b"9" * 30, 100),
        )
        names = [name.partition(b"/")[2].partition(b"C")[0] for name in self.file_names()]
        self.assertEqual(
            sorted(names, key=lambda name: (int(name.split(b".")[0]), name)),
            [
                *(b"50.M000000", b"50.M000001", b"50.M000002", b"60.M1.a"),
                *(b"61.M000000", b"61.M000001", b"90.M000000", b"91.M000000", b"100.M000000"),
            ],
        )
        expected = [b"zz", b"yy", b"40.M1.a", b"60.M1.a", b"xx", b"ww", b"90.M1/a", b"91.b;2,S"]
        self.assertEqual(self.uids(), [*expected, b"9" * 30])

    def test_many_digits(self):
        """A unique-id with a number near the largest of base names does not change the order."""
        uids = [b"9" * digits + b".x" for digits in (1, 10, 11, 18, 19, 20)]
        self.deliver(*((each, 9) for uid in uids for each in (uid, b"after-" + uid)))
        self.assertEqual(self.uids(), [each for uid in uids for each in (uid, b"after-" + uid)])

    def test_many_in_a_second(self):
        """After a million messages with one time, the next ones are a second later."""
        self.patch(session_delivery, "_MAX_NUMBER", 1)
        self.deliver(*((b"%d" % number, 5) for number in range(4)))
        names = [name.partition(b"C")[0] for name in self.file_names()]
        expected = [b"new/5.M000000", b"new/5.M000001", b"new/6.M000000", b"new/6.M000001"]
        self.assertEqual(names, expected)

    def test_last_number(self):
        """A name may have any number of six digits; the one after it is a second later."""
        digest = b"C0123456789abcdef0123.popserv"
        self.deliver((b"5.M999998" + digest, 5), (b"x", 5), (b"y", 5))
        names = [name.partition(b"C")[0] for name in self.file_names()]
        self.assertEqual(names, [b"new/5.M999998", b"new/5.M999999", b"new/6.M000000"])

    def test_first_times(self):
        """Times may be as early as 1970, and count as 1970 if they are earlier."""
        for messages, names in (
            ([(b"0.a", 0)], [b"new/0.a"]),
            ([(b"x", 0)], [b"new/0.M000000"]),
            ([(b"y", -5)], [b"new/0.M000000"]),
        ):
            self.deliver(*messages)
            self.assertEqual([name.partition(b"C")[0] for name in self.file_names()], names)
            self.make_empty()

    def test_taken_name(self):
        """A unique-id that is the base name of another message is not used as one."""
        self.put(b"new/7.a")
        self.deliver((b"7.a", 7), (b"8.b", 8))
        self.deliver((b"x", 9))
        self.assertEqual(self.uids(), [b"7.a", b"8.b", b"x"])

    def test_taken_during_scan(self):
        """Nor is one of a message that was not found at first, which would be overwritten."""
        self.put(b"new/9.z", b"pinned\n")
        self.pin({b"9.z": b"p"})
        self.patch(store, "MaildirDelivery", _WithoutMessages)
        self.deliver((b"9.z", 9))
        self.assertEqual(set(self.uids()), {b"p", b"9.z"})

    def test_name_of_the_one_before(self):
        """Nor is one that the message before it has just got, which would be overwritten."""
        digest = blake2b(b"x", digest_size=10).hexdigest().encode("ascii")
        name = b"5.M000000C%b.popserv" % digest
        self.deliver((b"x", 5), (name, 5))
        self.assertEqual(self.file_names()[0], b"new/" + name)
        self.assertEqual(self.uids(), [b"x", name])
        self.assertEqual(self.read_in_session(), [b"x\n", name + b"\n"])

    def pin(self, unique_ids):
        """Pin unique-ids, by base name."""
        maildir = os.open(self.path_of(b""), DIRECTORY)
        pinned_file.save(maildir, pinned_file.Pins(unique_ids))
        os.close(maildir)

    def test_pins_not_found(self):
        """If the pins are said not to exist, although they do, no message is delivered twice."""
        self.put(b"new/5.a", b"pinned\n")
        self.pin({b"5.a": b"p"})
        missing = FileNotFoundError(errno.ENOENT, "No such file or directory")
        reads = []

        def is_missing(name, *_):
            reads.extend([name] * (name == pinned_file.NAME))
            return name == pinned_file.NAME and len(reads) == number

        # It is read when the session is opened, when all messages are looked for, and to pin.
        for number, error in ((1, TryLater), (2, OSError), (3, OSError)):
            self.restart()
            with failing(os, "open", missing, is_missing), self.assertRaises(error):
                self.deliver((b"p", 5), (b"q", 6))
            self.assertEqual(len(reads), number)
            reads.clear()
            self.assertEqual(self.uids(), [b"p"])
        self.restart()
        self.deliver((b"p", 5), (b"q", 6))
        self.assertEqual(self.uids(), [b"p", b"q"])

    def test_interrupted(self):
        """What an interrupted delivery has left, a pin and a file in tmp/, does not disturb."""
        self.pin({b"1.gone": b"6.y"})
        self.put(b"tmp/6.y", b"unfinished")
        self.deliver((b"6.y", 6))
        self.assertEqual(self.uids(), [b"6.y"])
        self.assertEqual(os.listdir(self.path_of(b"tmp")), [])

    def test_again(self):
        """Of a message that is there already, it is told that it was not delivered."""
        self.deliver((b"x", 5))
        delivery = result(self.maildrops.open_delivery(b"ann"))
        self.assertFalse(result(delivery.deliver(b"x", NO_DETAILS, body_of(b"x\n"))))
        self.assertTrue(result(delivery.deliver(b"y", NO_DETAILS, body_of(b"y\n"))))
        # What is not committed is not left in tmp/ either.
        self.assertEqual(len(os.listdir(self.path_of(b"tmp"))), 1)
        result(delivery.release())
        self.assertEqual(os.listdir(self.path_of(b"tmp")), [])

    def test_failing_write(self):
        """A message that cannot be written whole is not left in tmp/."""
        delivery = result(self.maildrops.open_delivery(b"ann"))
        with failing(os, "fsync", OSError(errno.EIO, "I/O error")), self.assertRaises(OSError):
            result(delivery.deliver(b"x", NO_DETAILS, body_of(b"x\n")))
        self.assertEqual(os.listdir(self.path_of(b"tmp")), [])
        result(delivery.release())

    def test_permissions(self):
        """The group of the Maildir has its access; what cannot be given away is private."""
        self.addCleanup(os.umask, os.umask(0))
        os.chmod(self.path_of(b""), 0o770)
        self.deliver((b"1.a", 1))
        self.patch(session_delivery, "copy_ownership", lambda maildir, fd: None)
        self.deliver((b"2.b", 2))
        modes = [os.stat(self.path_of(b"new/" + name)).st_mode & 0o777 for name in (b"1.a", b"2.b")]
        self.assertEqual(modes, [0o660, 0o600])

    def test_quota(self):
        """What was delivered is added in the quota file, even if the rest cannot be."""
        self.put(b"maildirsize", b"1000S\n")
        real = os.rename
        messages = [
            (b"1.a,S=500", 1, Flags.SEEN),
            (b"2.b", 2, Flags.DELETED),
            (b"3.c", 3),
            (b"4.d", 4),
        ]
        with (
            failing(os, "rename", OSError(errno.EIO, "I/O error"), lambda old, _: old == b"4.d"),
            self.assertRaises(OSError),
        ):
            self.deliver(*messages)
        self.assertEqual(self.quota(), b"1000S\n504 2\n")
        self.deliver(*messages)
        self.assertEqual(self.quota(), b"1000S\n504 2\n4 1\n")
        self.assertIs(os.rename, real)
        self.assertEqual(len(self.file_names()), 4)

    def quota(self):
        """Return the quota file."""
        with open(self.path_of(b"maildirsize"), "rb") as file:
            return file.read()

    def test_synced(self):
        """Both folders are on disk when a delivery is committed."""
        done = []

        def path_at(fd):
            return os.path.relpath(os.readlink(b"/proc/self/fd/%d" % fd), os.fsencode(self.root))

        real = os.rename

        def rename(old, new, **options):
            real(old, new, **options)
            done.append(new)

        with (
            mock.patch.object(os, "fsync", lambda fd: done.append(path_at(fd))),
            mock.patch.object(os, "rename", rename),
        ):
            self.deliver((b"1.a", 1), (b"2.b", 2, Flags.SEEN))
        self.assertEqual(done[-4:], [b"1.a", b"2.b:2,S", b"ann/new", b"ann/cur"])

    def test_special_files(self):
        """What has come in the place of a folder and is no directory is refused."""
        for name in (b"tmp", b"new", b"cur"):
            for kind, make in SPECIAL_FILES.items():
                if kind == "a directory":
                    continue
                delivery = result(self.maildrops.open_delivery(b"ann"))
                if name != b"tmp":
                    result(delivery.deliver(b"x", NO_DETAILS, body_of(b"x\n")))
                os.rename(self.path_of(name), self.path_of(b"old"))
                make(self.path_of(name))
                with self.assertRaises(OSError, msg=(name, kind)):
                    result(delivery.deliver(b"y", NO_DETAILS, body_of(b"y\n")))
                    result(delivery.commit())
                result(delivery.release())
                os.unlink(self.path_of(name))
                os.rename(self.path_of(b"old"), self.path_of(name))
        self.assertEqual(self.file_names(), [])

    def test_link_in_tmp(self):
        """A link that another program creates in tmp/ meanwhile is not followed."""
        self.put(b"victim", b"precious")
        real = os.unlink

        def unlink(name, **options):
            try:
                real(name, **options)
            finally:
                if name == b"6.y" and not os.path.lexists(self.path_of(b"tmp/6.y")):
                    os.symlink("../victim", self.path_of(b"tmp/6.y"))

        with mock.patch.object(os, "unlink", unlink), self.assertRaises(OSError):
            self.deliver((b"6.y", 6))
        with open(self.path_of(b"victim"), "rb") as file:
            self.assertEqual(file.read(), b"precious")

    def test_folders(self):
        """Messages without flags are in new/, others in cur/ with the info that is usual there."""
        self.put(b"cur/1.a;2,S")
        self.deliver(
            (b"2.b", 2), (b"3.c", 3, Flags.SEEN), (b"4.d", 4, Flags.DRAFT | Flags.ANSWERED)
        )
        expected = [b"cur/1.a;2,S", b"cur/3.c;2,S", b"cur/4.d;2,DR", b"new/2.b"]
        self.assertEqual(self.file_names(), expected)

    def test_invalid_unique_id(self):
        """A message whose unique-id cannot be kept is refused, before it is opened."""
        delivery = result(self.maildrops.open_delivery(b"ann"))
        for uid in (b"a b", b"", b"x" * 256, b"\xe9"):
            with self.assertRaises(DeliveryRefused):
                result(delivery.deliver(uid, NO_DETAILS, None))
        result(delivery.release())

    def test_renamed_during_scan(self):
        """A message that is renamed while the Maildir is opened is not delivered again."""
        self.deliver((b"x", 5), (b"6.y", 6))
        for name in self.file_names():
            self.move(name, b"cur/" + name[4:] + b":2,S")
        # As if the first scan had found nothing.
        self.patch(store, "MaildirDelivery", _WithoutMessages)
        self.deliver((b"x", 5), (b"6.y", 6))
        self.assertEqual(self.uids(), [b"x", b"6.y"])

    def test_never_settled(self):
        """While programs keep renaming messages, nothing is delivered."""
        real = session_delivery.Folders.scan
        self.patch(
            session_delivery.Folders,
            "scan",
            lambda *args, **options: real(*args, **options)._replace(is_settled=False),
        )
        with self.assertRaises(TryLater) as raised:
            result(self.maildrops.open_delivery(b"ann"))
        self.assertIn("renaming", str(raised.exception.__cause__))
        with self.session():
            pass

    def test_removed(self):
        """If another program removes the Maildir meanwhile, the delivery is refused for now."""
        self.patch(self.maildrops, "_create", lambda user: None)
        refused = self.assertRaises(TryLater, result, self.maildrops.open_delivery(b"bob"))
        self.assertIn("/bob was removed meanwhile", str(refused.__cause__))
        with self.session(b"bob"):
            pass

    def test_cannot_create(self):
        """A Maildir that cannot be created is refused, with the reason."""
        self.assertRaises(MaildropUnavailable, result, self.maildrops.open_delivery(b".x"))
        with failing(os, "mkdir", PermissionError(13, "denied")):
            self.assertRaises(MaildropUnavailable, result, self.maildrops.open_delivery(b"bob"))
        os.rmdir(self.path_of(b"tmp"))
        with failing(os, "mkdir", OSError(errno.EIO, "I/O error", b"tmp")):
            delivery = self.maildrops.open_delivery(b"ann")
            refused = self.assertRaises(MaildropUnavailable, result, delivery)
        self.assertIn("/ann/tmp: I/O error", str(refused.__cause__))

    def test_paths(self):
        """Whatever cannot be opened or examined is told with its path."""
        error = OSError(errno.EIO, "I/O error")
        tmp = failing(os, "open", error, lambda name, *_, **__: name == b"tmp")
        delivery = result(self.maildrops.open_delivery(b"ann"))
        with tmp, self.assertRaises(OSError) as raised:
            result(delivery.deliver(b"x", NO_DETAILS, body_of(b"x\n")))
        self.assertIn("/ann/tmp: I/O error", str(raised.exception))
        with failing(session_delivery.Folders, "scan", error):
            raised = self.assertRaises(OSError, delivery.find_moved)
        self.assertIn("/ann: I/O error", str(raised))
        result(delivery.release())
        with (
            failing(os, "mkdir", error),
            self.assertRaises(MaildropUnavailable) as raised,
        ):
            result(self.maildrops.open_delivery(b"bob"))
        self.assertIn("/bob: I/O error", str(raised.exception.__cause__))

    def test_missing_folder(self):
        """A folder that vanishes during a delivery is an error, and nothing stays open."""
        delivery = result(self.maildrops.open_delivery(b"ann"))
        result(delivery.deliver(b"x", NO_DETAILS, body_of(b"x\n")))
        os.rmdir(self.path_of(b"cur"))
        with self.assertRaises(OSError) as raised:
            result(delivery.commit())
        self.assertIn("/ann/cur", str(raised.exception))
        result(delivery.release())

    def test_users(self):
        """The users are those who have a Maildir."""
        self.make_maildir(b"bob")
        self.assertEqual(result(self.maildrops.users()), [b"ann", b"bob"])


class _WithoutMessages(session_delivery.MaildirDelivery):
    """A delivery whose scan at login has found nothing."""

    def __init__(self, mailbox, run):
        super().__init__(mailbox, run)
        self._names.clear()
        self._base_names.clear()
