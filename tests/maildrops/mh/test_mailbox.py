"""Tests of popserv.maildrops.mh.mailbox: sessions while other programs change the folder."""

import errno
import os
from unittest.mock import patch

from popserv.errors import (
    MaildropUnavailable,
    MessageChanged,
    NoSuchMessage,
    RemovalFailed,
    TryLater,
)
from popserv.maildrops.mh import body, folder, index
from popserv.maildrops.mh import mailbox as module
from popserv.messages.details import Flags
from tests.maildrops.maildir.harness import failing, read_message, result
from tests.maildrops.mh.harness import MHCase, deliver, numbers_in, pack


class MailboxCase(MHCase):
    """A folder of three messages, without the first number."""

    def setUp(self):
        """Deliver the messages."""
        super().setUp()
        self.deliver(b"0\n", b"1\n", b"2\n", b"3\n")
        os.unlink(self.file(1))
        self.sequences(b"cur: 2\nunseen: 1-4\nmine: 2 4\n")


class ReadingTests(MailboxCase):
    """Messages are found whatever their numbers are."""

    def test_renumbered(self):
        """A message that was renumbered during the session is found."""
        with self.session() as mailbox:
            pack(self.path)
            self.assertEqual(
                [read_message(mailbox, at) for at in range(3)], [b"1\n", b"2\n", b"3\n"]
            )

    def test_removed(self):
        """A message that was removed cannot be opened, even if another one has its number."""
        with self.session() as mailbox:
            os.rename(self.file(4), self.file(3))
            with self.assertRaises(NoSuchMessage):
                read_message(mailbox, 1)
            os.unlink(self.file(3))
            with self.assertRaises(NoSuchMessage):
                read_message(mailbox, 2)

    def test_changed(self):
        """A message that was changed in place is refused, and is right in the next session."""
        self.patch(folder, "TRUSTED_AGE", -(10**20))
        with self.session() as mailbox:
            deliver(self.path, b"changed\n", 3)
            with self.assertRaises(MessageChanged):
                read_message(mailbox, 1)
        self.assertEqual(self.read_all(), [b"1\n", b"changed\n", b"3\n"])

    def test_renamed_while_opened(self):
        """A message that is renamed between the scan and its opening has vanished at last."""
        with self.session() as mailbox:
            pack(self.path)
            opening = patch.object(module, "open_number", return_value=None)
            with opening, self.assertRaises(MessageChanged):
                read_message(mailbox, 0)

    def test_fault(self):
        """A message that cannot be read is refused, with its path in the log."""
        with (
            self.session() as mailbox,
            failing(module, "open_number", PermissionError(13, "no")),
            self.assertRaises(MaildropUnavailable) as refused,
        ):
            read_message(mailbox, 0)
        self.assertIn(f"{self.file(2)} cannot be read", str(refused.exception.__cause__))

    def test_paths(self):
        """What cannot be read is told with its path."""
        error = OSError(errno.EIO, "I/O error")
        with self.session() as mailbox:
            self.patch(body, "read_part", lambda *_: None)
            chunks = result(mailbox.open(mailbox.messages[0]))
            with failing(os, "pread", error):
                raised = self.assertRaises(OSError, lambda: result(next(iter(chunks))))
            chunks.close()
            self.assertEqual(str(raised), f"{self.file(2)}: I/O error")
            with failing(module, "scan", error), self.assertRaises(OSError) as raised:
                mailbox.details()
            self.assertEqual(str(raised.exception), f"{self.path}: I/O error")

    def test_details(self):
        """A message that has vanished has no flags."""
        deliver(self.path, b"0\n", 1)
        self.sequences(b"flagged: 1\n")
        with self.session() as mailbox:
            os.unlink(self.file(2))
            flags = [each.flags for each in mailbox.details()]
        self.assertEqual(flags, [Flags.FLAGGED, *[Flags.NONE] * 3])

    def test_discard_sizes(self):
        """Sizes that were wrong are counted again, and unique-ids stay, after a restart as well."""
        self.patch(index, "SAVE_THRESHOLD", 1)
        uids = self.uids()
        for restarts in (False, True):
            with self.session() as mailbox:
                result(mailbox.discard_sizes())
            if restarts:
                self.restart()
            before = self.maildrops.scan_counts()[1]
            self.assertEqual(self.uids(), uids)
            self.assertEqual(self.maildrops.scan_counts()[1] - before, 3)


class NotFoundTests(MailboxCase):
    """A message that is there, although a scan has not found it."""

    def missing(self, number):
        """Let scans not find a message, though it is listed."""
        real = module.scan

        def scan(fd):
            found = real(fd)
            files = {each: key for each, key in found.files.items() if each != number}
            return found._replace(files=files, missing=[number], is_settled=False)

        self.patch(module.time, "sleep", lambda seconds: None)
        return patch.object(module, "scan", scan)

    def test_remove(self):
        """It keeps its flags when others are removed."""
        self.sequences(b"unseen: 2-3\nflagged: 2-4\n")
        with self.missing(4):
            self.remove(0)
        self.assertEqual(self.sequences(), b"unseen: 3\nflagged: 3-4\n")

    def test_record(self):
        """It stays unseen, or read, when others are retrieved."""
        for text, expected in (
            (b"unseen: 2-4\n", b"unseen: 3-4\nretrieved: 2\n"),
            (b"unseen: 2-3\n", b"unseen: 3\nretrieved: 2 4\n"),
        ):
            self.sequences(text)
            with self.missing(4), self.session() as mailbox:
                result(mailbox.record_retrieved([mailbox.messages[0]]))
            self.assertEqual(self.sequences(), expected)

    def test_details(self):
        """Its flags are looked for again, and are an error if it is not found."""
        self.sequences(b"flagged: 4\n")
        real = module.scan
        with self.session() as mailbox:
            with self.missing(4) as missing, self.assertRaises(OSError) as raised:
                mailbox.details()
            problem = f"{self.path}: other programs keep renaming its messages"
            self.assertEqual(str(raised.exception), problem)
            scans = iter((missing,))
            with patch.object(module, "scan", lambda fd: next(scans, real)(fd)):
                flags = [each.flags for each in mailbox.details()]
        self.assertEqual(flags, [Flags.NONE, Flags.NONE, Flags.FLAGGED])

    def test_open(self):
        """It cannot be read for now, and has not vanished."""
        with (
            self.session() as mailbox,
            self.missing(4),
            patch.object(module, "open_number", return_value=None),
            self.assertRaises(TryLater) as refused,
        ):
            read_message(mailbox, 2)
        problem = f"{self.path}: other programs keep renaming its messages"
        self.assertEqual(str(refused.exception.__cause__), problem)


class RemovalTests(MailboxCase):
    """Messages are removed, and no others."""

    def test_remove(self):
        """A removed number is in no sequence, so that the next message with it is unread."""
        self.remove(0, 2)
        self.assertEqual(self.sequences(), b"cur: 2\nunseen: 3\n")
        self.assertEqual(self.read_all(), [b"2\n"])

    def test_renumbered(self):
        """Messages that were renumbered during the session are removed, and no others."""
        with self.session() as mailbox:
            pack(self.path)
            deliver(self.path, b"new\n")
            result(mailbox.remove(mailbox.messages[1:]))
        self.assertEqual(self.read_all(), [b"1\n", b"new\n"])

    def test_removed(self):
        """Messages that others have removed count as removed."""
        with self.session() as mailbox:
            os.unlink(self.file(3))
            result(mailbox.remove(mailbox.messages[:2]))
        self.assertEqual(self.read_all(), [b"3\n"])

    def renaming(self, renumber):
        """Have a program without the lock act before each message is unlinked."""
        real = module.unlink_if_same

        def unlink(fd, number, key):
            renumber(number)
            real(fd, number, key)

        return patch.object(module, "unlink_if_same", unlink)

    def test_renumbered_at_last(self):
        """A message that gets another number at the last moment is removed all the same."""

        def renumber(number):
            if number == 3:
                os.rename(self.file(3), self.file(1))
            elif number == 4:
                os.unlink(self.file(4))

        with self.renaming(renumber):
            self.remove(1, 2)
        self.assertEqual(numbers_in(self.path), [2])
        self.assertEqual(self.sequences(), b"cur: 2\nunseen: 2\nmine: 2\n")

    def test_renumbered_again(self):
        """If it gets other numbers again and again, it remains, and the others are removed."""

        def renumber(number):
            if number != 2:
                os.rename(self.file(number), self.file(number + 10))

        with self.renaming(renumber), self.assertRaises(RemovalFailed) as failed:
            self.remove(0, 1)
        self.assertEqual(failed.exception.remaining, 1)
        problem = f"{self.path}: other programs keep renaming its messages"
        self.assertEqual(str(failed.exception.__cause__), problem)
        self.assertEqual(self.read_all(), [b"3\n", b"2\n"])

    def test_end_of_lock(self):
        """If only the lock does not end as it should, the messages are removed, which is told."""
        error = OSError(errno.EIO, "I/O error")
        is_file = lambda name, *_, **__: name == b".mh_sequences"  # noqa: E731
        with failing(os, "unlink", error, is_file), patch.object(module, "_log") as log:
            self.sequences(b"unseen: 2\n")
            with self.session() as mailbox:
                result(mailbox.remove(mailbox.messages))
        self.assertIn(self.file(".mh_sequences"), str(log.warn.call_args))
        self.assertEqual(self.read_all(), [])

    def test_changed(self):
        """A message that was changed remains, because the client has not seen all of it."""
        with self.session() as mailbox:
            with open(self.file(3), "ab") as file:
                file.write(b"the rest\n")
            with self.assertRaises(RemovalFailed) as failed:
                result(mailbox.remove(mailbox.messages))
        self.assertEqual(failed.exception.remaining, 1)
        self.assertIn(f"{self.file(3)}: ", str(failed.exception.__cause__))
        self.assertEqual(self.read_all(), [b"2\nthe rest\n"])

    def test_hard_links(self):
        """Messages that are one file are both removed, whatever their numbers are."""
        os.link(self.file(4), self.file(5))
        with self.session() as mailbox:
            for number in (4, 5):
                os.rename(self.file(number), self.file(number + 3))
            result(mailbox.remove(mailbox.messages[2:]))
        self.assertEqual(self.read_all(), [b"1\n", b"2\n"])

    def test_replaced(self):
        """A file that takes the number of a message at the last moment remains."""
        real = os.stat

        def stat(name, **kwargs):
            if kwargs.get("dir_fd") is not None:
                if name == b"3":
                    deliver(self.path, b"new and longer\n", 3)
                elif name == b"4":
                    os.unlink(self.file(4))
            return real(name, **kwargs)

        with (
            self.session() as mailbox,
            patch.object(module.os, "stat", stat),
            self.assertRaises(RemovalFailed) as failed,
        ):
            result(mailbox.remove(mailbox.messages))
        self.assertEqual(failed.exception.remaining, 1)
        self.assertEqual(self.read_all(), [b"new and longer\n"])

    def test_faults(self):
        """Whatever call fails, no other message is lost, and the reply is right."""
        for owner, name, error, place in (
            (module.os, "rename", PermissionError(13, "no"), "2 cannot be"),
            (
                module,
                "locked_sequences",
                OSError(11, "locked", b".mh_sequences"),
                ".mh_sequences: ",
            ),
            (module, "scan", OSError(5, "I/O error"), ".mh_sequences: "),
        ):
            with (
                self.session() as mailbox,
                failing(owner, name, error),
                self.assertRaises(RemovalFailed) as failed,
            ):
                result(mailbox.remove(mailbox.messages[:2]))
            self.assertEqual(failed.exception.remaining, 2)
            self.assertIn(self.file(place), str(failed.exception.__cause__))
            self.assertEqual(self.read_all(), [b"1\n", b"2\n", b"3\n"])

    def test_not_durable(self):
        """If the folder cannot be synced, the removal fails."""
        with (
            self.session() as mailbox,
            failing(module.os, "fsync", OSError(5, "I/O error")),
            self.assertRaises(OSError),
        ):
            result(mailbox.remove(mailbox.messages[:2]))
        self.assertEqual(numbers_in(self.path), [4])
        self.assertEqual(self.read_all(), [b"3\n"])

    def test_unsettled(self):
        """While other programs rename, a missing message is waited for, and then remains."""
        real = module.scan
        waited = []
        with self.session() as mailbox:
            os.unlink(self.file(3))
            with (
                patch.object(module, "scan", lambda fd: real(fd)._replace(is_settled=False)),
                patch.object(module.time, "sleep", waited.append),
                self.assertRaises(RemovalFailed),
            ):
                result(mailbox.remove(mailbox.messages[1:2]))
        self.assertEqual(waited, list(module.RETRY_DELAYS))
        self.assertTrue(min(waited) >= 0 and sum(waited) < 1)

    def test_found(self):
        """Messages that a scan has found are not waited for, whatever other programs rename."""
        real = module.scan
        scans = []

        def scan(fd):
            scans.append(real(fd)._replace(is_settled=False))
            return scans[-1]

        with self.session() as mailbox, patch.object(module, "scan", scan):
            result(mailbox.remove(mailbox.messages))
        self.assertEqual(len(scans), 1)


class RetrievalTests(MailboxCase):
    """LAST, by sequences."""

    def last(self):
        """Return the position of the last retrieved message."""
        with self.session() as mailbox:
            message = result(mailbox.last_retrieved())
            return None if message is None else message.position

    def record(self, *positions):
        """Record retrievals in a session of their own."""
        with self.session() as mailbox:
            result(mailbox.record_retrieved([mailbox.messages[at] for at in positions]))

    def test_unseen(self):
        """A message that is not unseen was read, if the folder has that sequence."""
        self.assertIsNone(self.last())
        self.sequences(b"unseen: 2 4\n")
        self.assertEqual(self.last(), 1)

    def test_no_unseen(self):
        """Without the sequence, the messages were not read, but for those that were retrieved."""
        for text in (b"cur: 3\n", b""):
            self.sequences(text)
            self.assertIsNone(self.last())
            self.record(1)
            self.assertEqual(self.sequences(), text + b"retrieved: 3\n")
            self.assertEqual(self.last(), 1)
        os.unlink(self.file(".mh_sequences"))
        self.assertIsNone(self.last())

    def test_record(self):
        """Retrieved messages are no longer unseen, and stay retrieved when none is unseen."""
        self.record(0, 1)
        self.assertEqual(self.sequences(), b"cur: 2\nunseen: 4\nmine: 2 4\nretrieved: 2-3\n")
        self.assertEqual(self.last(), 1)
        self.record(2)
        self.assertEqual(self.sequences(), b"cur: 2\nmine: 2 4\nretrieved: 2-4\n")
        self.assertEqual(self.last(), 2)
        deliver(self.path, b"new\n")
        self.assertEqual(self.last(), 2)

    def test_unseen_removed(self):
        """Messages that were read stay read when the last unseen ones are removed."""
        self.sequences(b"unseen: 3-4\n")
        self.remove(1)
        self.assertEqual(self.sequences(), b"unseen: 4\n")
        self.remove(1)
        self.assertEqual(self.sequences(), b"retrieved: 2\n")
        self.assertEqual(self.last(), 0)

    def test_locked(self):
        """If the sequences cannot be used, that is logged, and nothing was retrieved."""
        for name, use in (("read_sequences", self.last), ("locked_sequences", self.record)):
            locked = failing(module, name, OSError(11, "locked", b".mh_sequences"))
            with locked, patch.object(module, "_log") as log:
                self.assertIsNone(use())
            self.assertIn(self.file(".mh_sequences"), str(log.warn.call_args))
