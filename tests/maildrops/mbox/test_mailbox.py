"""popserv.maildrops.mbox.mailbox and file: a session beside the programs that change the file."""

import contextlib
import errno
import fcntl
import io
import os
from contextlib import closing
from itertools import count
from unittest import mock

from twisted.internet.testing import EventLoggingObserver
from twisted.logger import formatEvent, globalLogPublisher
from zope.interface.verify import verifyObject

from popserv.core.user_settings import NO_SETTINGS
from popserv.errors import (
    MaildropUnavailable,
    MessageChanged,
    NoSuchMessage,
    RemovalFailed,
    TryLater,
)
from popserv.interfaces import ICachedMessages, IRetrievalRecord, ISizeCache
from popserv.maildrops.mbox import Format, body, rewriting
from popserv.maildrops.mbox import file as module
from popserv.maildrops.mbox import mailbox as mailbox_module
from popserv.maildrops.mbox.file import MboxFile
from popserv.maildrops.mbox.header import MAX_HEADER
from popserv.maildrops.mbox.locks import FileLock
from popserv.testing import naive_octets, read_all
from tests.maildrops.interrupted import Killed, interposed
from tests.maildrops.maildir.harness import failing, read_message, result, use_python
from tests.maildrops.mbox.harness import FROM_LINE, INTERNAL_DATA, OLD, MboxCase, mbox_of, stored

MESSAGES = [b"Subject: 1\n\none\n", b"Subject: 2\n\ntwo\n", b"Subject: 3\n\nthree\n"]


class MailboxCase(MboxCase):
    """A file of three messages."""

    def setUp(self):
        """Write the file; not every file system supports RWF_NOWAIT."""
        super().setUp()
        self.write(mbox_of(MESSAGES))
        use_python(self, body, "read_part")
        use_python(self, mailbox_module, "read_part")
        real = os.preadv
        self.patch(os, "preadv", lambda fd, to, at, _flags: real(fd, to, at))

    def replace(self, octets):
        """Put another file in place of this one."""
        os.rename(self.path, self.path + ".old")
        self.write(octets)
        os.unlink(self.path + ".old")

    def rewrite(self, octets):
        """Rewrite the file in place, as mutt does."""
        with open(self.path, "rb+") as file:
            file.write(octets)
            file.truncate()

    def deliver(self):
        """Deliver a message as the server does."""
        new = io.BytesIO(b"Subject: new\n\nx\n")
        result(self.maildrops.deliver_new(b"ann", NO_SETTINGS, new))

    def kill_delivery(self):
        """Have a delivery killed after it has appended a message."""
        size = os.path.getsize(self.path)

        def before(name, at):
            if name == "fsync" and os.path.getsize(self.path) > size:
                raise Killed

        with interposed(before), self.assertRaises(Killed):
            self.deliver()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path + ".lock")
        self.assertGreater(os.path.getsize(self.path), size)

    def another_program(self):
        """Lock the file as another program does, until the test ends."""
        process = os.open(self.path, os.O_RDWR)
        self.addCleanup(os.close, process)
        fcntl.fcntl(process, fcntl.F_OFD_SETLK, b"\1\0" + bytes(30))
        return process


class ReadingTests(MailboxCase):
    """RETR, whatever happens to the file."""

    def test_unusual_octets(self):
        """Lines of 10 MB, NULs and bare CRs are read as they are, and removed."""
        messages = [
            b"A: b\n\n" + b"x" * 10_000_000 + b"\n",
            b"\0" * 5000 + b"\n",
            b"A: \0\n\n\0\r\0\n",
        ]
        self.write(mbox_of(messages))
        self.assertEqual(self.read_all(), messages)
        self.remove(0)
        self.assertEqual(self.read_all(), messages[1:])

    def test_interfaces(self):
        """It reads from the page cache, records retrievals, and can discard sizes."""
        with self.session() as mailbox:
            for interface in (ICachedMessages, IRetrievalRecord, ISizeCache):
                self.assertTrue(verifyObject(interface, mailbox))

    def test_changed_meanwhile(self):
        """A message is read wherever it is now, in whatever way the file was changed."""
        new = stored(b"new\n", 9)
        parts = mbox_of(MESSAGES).split(b"From ann@")[1:]
        moved = b"From ann@" + parts[2] + b"From ann@" + parts[0]
        for change in (self.rewrite, self.replace):
            with self.session() as mailbox:
                change(moved + new)
                self.assertEqual(mailbox.read_cached(mailbox.messages[0], 100), None)
                self.assertEqual(read_message(mailbox, 0), MESSAGES[0])
                self.assertEqual(mailbox.read_cached(mailbox.messages[0], 100), MESSAGES[0])
                self.assertEqual(mailbox.read_cached(mailbox.messages[1], 100), None)
                self.assertEqual(mailbox.read_cached(mailbox.messages[2], 100), MESSAGES[2])
                with failing(MboxFile, "refresh", AssertionError("read again")):
                    self.assertEqual(read_message(mailbox, 2), MESSAGES[2])
                with self.assertRaises(NoSuchMessage):
                    read_message(mailbox, 1)
            self.assertEqual(self.read_all(), [MESSAGES[2], MESSAGES[0], b"new\n"])
            self.write(mbox_of(MESSAGES))

    def test_file_removed(self):
        """If the file is gone, so are the messages."""
        with self.session() as mailbox:
            os.unlink(self.path)
            with self.assertRaises(NoSuchMessage):
                read_message(mailbox, 0)
            result(mailbox.remove(mailbox.messages))
            result(mailbox.record_retrieved(mailbox.messages))
        self.assertFalse(os.path.exists(self.path))

    def test_file_moved(self):
        """A file that the user has moved away stays as it is."""
        elsewhere = self.path + ".old"
        with self.session() as mailbox:
            os.rename(self.path, elsewhere)
            result(mailbox.remove(mailbox.messages[:1]))
            result(mailbox.record_retrieved(mailbox.messages[1:]))
        self.assertFalse(os.path.exists(self.path))
        with open(elsewhere, "rb") as file:
            self.assertEqual(file.read(), mbox_of(MESSAGES))

    def test_status_written(self):
        """A message to which another program has added a field has other octets.

        It is refused, and the next session reads the file again.
        """
        with self.session() as mailbox:
            self.rewrite(mbox_of([MESSAGES[0].replace(b"\n\n", b"\nStatus: RO\n\n")]))
            os.utime(self.path, ns=(OLD, OLD))
            with self.assertRaises(MessageChanged):
                read_message(mailbox, 0)
        scans, _ = self.maildrops.scan_counts()
        self.assertEqual(len(self.read_all()), 1)
        self.assertEqual(self.maildrops.scan_counts(), (scans + 1, 3 + 1))

    def test_unusable(self):
        """What is no mbox file any more is refused, and stays as it is."""
        with self.session() as mailbox:
            self.rewrite(b"no From_ line\n")
            with self.assertRaises(MaildropUnavailable):
                read_message(mailbox, 0)
            with self.assertRaises(RemovalFailed):
                result(mailbox.remove(mailbox.messages))
        self.assertEqual(self.contents(), b"no From_ line\n")

    def test_other_session(self):
        """A file that was put in place of this one, and that another session has, is left alone."""
        with self.session() as mailbox:
            self.replace(mbox_of(MESSAGES))
            self.restart()
            with self.session():
                with self.assertRaises(TryLater):
                    read_message(mailbox, 0)
                with self.assertRaises(RemovalFailed):
                    result(mailbox.remove(mailbox.messages))
        self.assertEqual(self.contents(), mbox_of(MESSAGES))

    def test_locked(self):
        """While another program has the file locked, a changed file is not read."""
        with self.session() as mailbox:
            self.append(stored(b"new\n", 9))
            self.another_program()
            with self.assertRaises(TryLater):
                read_message(mailbox, 0)
            with self.assertRaises(RemovalFailed):
                result(mailbox.remove(mailbox.messages))
            result(mailbox.record_retrieved(mailbox.messages))
        self.assertEqual(len(self.flushWarnings()), 0)

    def test_read_error(self):
        """A message that cannot be read is refused."""
        with self.session() as mailbox, failing(os, "fstat", OSError(errno.EIO, "I/O error")):
            with self.assertRaises(MaildropUnavailable) as refused:
                result(mailbox.open(mailbox.messages[0]))
            self.assertIn("message cannot be read", str(refused.exception))
        self.assertEqual(str(refused.exception.__cause__), f"{self.path}: I/O error")
        with self.session() as mailbox, failing(os, "pread", OSError(errno.EIO, "I/O error")):
            with self.assertRaises(MaildropUnavailable) as refused:
                result(mailbox.open(mailbox.messages[0]))
            self.assertIn("message cannot be read", str(refused.exception))
        self.assertEqual(str(refused.exception.__cause__), f"{self.path}: I/O error")

    def test_changed_before_reading(self):
        """A file that is rewritten between the look at it and the reading is read again."""
        real = MboxFile.read
        moved = mbox_of(MESSAGES).split(b"From ann@")[3]
        changes = [
            lambda: self.rewrite(b"From ann@" + moved),
            lambda: self.rewrite(mbox_of([MESSAGES[0], b"longer\n" * 99, MESSAGES[2]])),
            lambda: self.replace(b"From ann@" + moved),
        ]
        for change in changes:
            waiting = [change]

            def read(file, position, waiting=waiting):
                for each in waiting:
                    waiting.remove(each)
                    each()
                return real(file, position)

            with self.session() as mailbox, mock.patch.object(MboxFile, "read", read):
                self.assertEqual(read_message(mailbox, 2), MESSAGES[2])
            self.assertEqual(waiting, [])
            self.write(mbox_of(MESSAGES))

    def test_octets_moved(self):
        """Octets that moved from one message to another, before mail was appended, are noticed."""
        field, rest = b"X-Keywords:", b"\nSubject: b\n\ny\n"
        messages = [b"Subject: a\n\nx\n", field + b" " * 11 + rest, MESSAGES[2]]
        self.write(mbox_of(messages))
        self.read_all()
        moved = [b"Status: RO\n" + messages[0], field + rest, messages[2]]
        self.assertEqual(len(mbox_of(moved)), len(mbox_of(messages)))
        self.rewrite(mbox_of(moved))
        self.append(stored(b"new\n", 9))
        with self.session() as mailbox:
            for at in range(2):
                self.assertEqual(mailbox.read_cached(mailbox.messages[at], 100), None)
                with self.assertRaises(MessageChanged):
                    read_message(mailbox, at)
            self.assertEqual(read_message(mailbox, 2), messages[2])
            self.assertEqual(read_message(mailbox, 3), b"new\n")
        self.assertEqual(self.read_all(), [*moved, b"new\n"])
        self.write(mbox_of(messages))
        with self.session() as mailbox:
            self.rewrite(mbox_of(moved))
            self.append(stored(b"new\n", 9))
            with self.assertRaises(MessageChanged):
                read_message(mailbox, 1)
            self.assertEqual(read_message(mailbox, 2), messages[2])
        # One that is between them has another offset only.
        messages.insert(1, b"Subject: between\n\nz\n")
        moved.insert(1, messages[1])
        self.write(mbox_of(messages))
        with self.session() as mailbox:
            self.rewrite(mbox_of(moved))
            self.append(stored(b"new\n", 9))
            self.assertEqual(read_message(mailbox, 1), messages[1])

    def test_replaced_before_lock(self):
        """A file that was replaced just before it is locked is not the one that is changed."""
        real = FileLock.acquire
        waiting = []

        def acquire(lock):
            for each in waiting:
                waiting.remove(each)
                self.replace(self.contents() + stored(b"new\n", 9))
            real(lock)

        self.patch(FileLock, "acquire", acquire)
        with self.session() as mailbox:
            waiting.append(1)
            result(mailbox.remove(mailbox.messages[:2]))
        self.assertEqual(self.read_all(), [MESSAGES[2], b"new\n"])
        waiting.append(1)
        self.restart()
        self.assertEqual(self.read_all(), [MESSAGES[2], b"new\n", b"new\n"])

    def test_header_grown(self):
        """If a program adds a field, what was read is not taken for the message.

        The octets are as many as expected, although the end of the message is missing.
        """
        message = b"Subject: x\n\nwhole\n0123456789\n"
        other = b"Status: RO\n" + message
        self.write(mbox_of([message]))
        grown = mbox_of([other])
        self.assertEqual(naive_octets(message), naive_octets(other[: len(message)]))
        real = os.pread

        def pread(*args):
            if self.contents() != grown:
                self.rewrite(grown)
            return real(*args)

        with self.session() as mailbox, mock.patch.object(os, "pread", pread):
            with self.assertRaises(MessageChanged):
                read_message(mailbox, 0)
            # What has changed for certain does not make it read the file again.
            self.patch(module, "read_index", None)
            with self.assertRaises(MessageChanged):
                read_message(mailbox, 0)

    def test_one_chunk(self):
        """A message of one chunk is not read in parts, even if the file has changed."""
        messages = [MESSAGES[0], b"x" * 149 + b"\n", MESSAGES[2]]
        self.write(mbox_of(messages))
        self.patch(module, "CHUNK", 150)
        self.patch(mailbox_module, "Body", None)
        with self.session() as mailbox:
            self.assertEqual([read_message(mailbox, at) for at in range(3)], messages)
            for position in range(3):
                self.append(stored(b"new\n", 9))
                self.assertEqual(read_message(mailbox, position), messages[position])

    def test_no_lock_respected(self):
        """A message that changes while it is being read, in spite of the lock, is refused."""
        real = os.pread

        def pread(fd, octets, offset):
            return real(fd, octets - 1, offset)

        with self.session() as mailbox, mock.patch.object(module, "os") as patched:
            patched.configure_mock(fstat=os.fstat, pread=pread)
            with self.assertRaises(MessageChanged):
                result(mailbox.open(mailbox.messages[0]))

    def test_read_cached(self):
        """The start of a message is read at once, unless it would have to wait."""
        with self.session() as mailbox:
            message = mailbox.messages[1]
            self.assertEqual(mailbox.read_cached(message, 5), b"Subje")
            self.assertEqual(mailbox.read_cached(message, 500), MESSAGES[1])
            with failing(os, "preadv", BlockingIOError()):
                self.assertEqual(mailbox.read_cached(message, 5), None)
            with failing(os, "stat", OSError(errno.EACCES, "denied")):
                self.assertEqual(mailbox.read_cached(message, 5), None)
            self.append(b"x")
            self.assertEqual(mailbox.read_cached(message, 5), None)

    def test_discard_sizes(self):
        """Discarded sizes are counted anew in the next session."""
        with self.session() as mailbox:
            result(mailbox.discard_sizes())
        with failing(os, "pread", OSError(errno.EIO, "read")), self.assertRaises(TryLater.__base__):
            result(self.maildrops.open_maildrop(b"ann"))


class LargeMessageTests(MailboxCase):
    """A message in several chunks."""

    message = b"Subject: x\n\n" + b"line\n>From y\n" * 30

    def setUp(self):
        """Make the chunks small."""
        super().setUp()
        for each in (body, module):
            self.patch(each, "CHUNK", 50)
        self.write(mbox_of([MESSAGES[0], self.message]))

    def read_changing(self, change):
        """Return the message, of which the file is changed after the first chunk."""
        with self.session() as mailbox:
            opened = result(mailbox.open(mailbox.messages[1]))
            chunks = iter(opened)
            try:
                first = next(chunks)
                change()
                return first + result(read_all(chunks))
            finally:
                opened.close()

    def test_appended(self):
        """A delivery while a message is sent does not disturb."""
        self.assertEqual(self.read_changing(lambda: self.append(stored(b"new\n", 9))), self.message)

    def test_delivery_undone(self):
        """So does one that removes what a killed one has left, before other mail or at the end."""
        octets = self.contents()
        for appended in (b"", stored(b"other\n", 9)):

            def change(appended=appended):
                self.kill_delivery()
                self.append(appended)
                self.deliver()

            self.write(octets)
            self.assertEqual(self.read_changing(change), self.message)
            self.assertEqual(len(self.read_all()), 3 + bool(appended))

    def test_unchanged(self):
        """A message of a file that has not changed is read once."""
        with failing(module, "parse", AssertionError("read again")):
            self.assertEqual(self.read_changing(lambda: None), self.message)

    def test_not_cached(self):
        """Chunks that are not cached are read in a thread."""
        with failing(os, "preadv", BlockingIOError()), self.session() as mailbox:
            self.assertEqual(read_message(mailbox, 1), self.message)

    def test_fault(self):
        """A part that cannot be read is an error that names the file."""
        fault = failing(os, "preadv", BlockingIOError())
        broken = failing(os, "pread", OSError(errno.EIO, "I/O error"))
        with self.session() as mailbox, fault:
            opened = result(mailbox.open(mailbox.messages[1]))
            with broken, self.assertRaises(OSError) as failed:
                result(next(iter(opened)))
            opened.close()
        self.assertEqual(str(failed.exception), f"{self.path}: I/O error")

    def test_not_examined(self):
        """So is a file that cannot be examined when all of a message was read."""
        broken = failing(os, "fstat", OSError(errno.EIO, "I/O error"))
        with (
            self.session() as mailbox,
            closing(result(mailbox.open(mailbox.messages[1]))) as opened,
        ):
            *_, last = opened
            with broken, self.assertRaises(OSError) as failed:
                result(last)
        self.assertEqual(str(failed.exception), f"{self.path}: I/O error")

    def test_short_read(self):
        """If the system returns less than it was asked for, the message is not sent to its end."""
        real = os.pread

        def pread(fd, octets, offset):
            return real(fd, octets - 1, offset)

        with (
            self.session() as mailbox,
            closing(result(mailbox.open(mailbox.messages[1]))) as opened,
            failing(os, "preadv", BlockingIOError()),
            mock.patch.object(os, "pread", pread),
            self.assertRaises(MessageChanged),
        ):
            result(next(iter(opened)))

    def test_header_grown(self):
        """If a program adds a field while a message is sent, it is not sent to its end."""
        field = b"Status: RO\n"
        grown = mbox_of([MESSAGES[0], field + self.contents_of_last()])
        with self.assertRaises(MessageChanged):
            self.read_changing(lambda: self.rewrite(grown))

    def contents_of_last(self):
        """Return the last message as it is stored."""
        return self.contents().rpartition(b"\nFrom ")[2].partition(b"\n")[2][:-1]

    def test_changed(self):
        """If the file is rewritten while a message is sent, it is not sent to its end."""
        octets = self.contents()
        for change in (
            lambda: self.rewrite(octets.replace(b"line", b"LINE")),
            lambda: self.rewrite(octets[10:]),
            lambda: self.rewrite(b""),
            lambda: self.rewrite(b"\n" * len(octets)),
            lambda: self.rewrite(mbox_of([MESSAGES[0]]) + b"x" * 999),
        ):
            with self.assertRaises(MessageChanged):
                self.read_changing(change)
            self.write(octets)

    def test_closed_session(self):
        """A message that is being sent has a descriptor of its own."""
        mailbox = result(self.maildrops.open_maildrop(b"ann"))
        opened = result(mailbox.open(mailbox.messages[1]))
        result(mailbox.release())
        with self.session():
            self.assertEqual(result(read_all(opened)), self.message)


class MboxrdTests(LargeMessageTests):
    """The quoting of mboxrd is undone."""

    format = Format(believes_content_length=False, is_quoted=True)

    def setUp(self):
        """Expect the message without its quoting."""
        super().setUp()
        self.message = self.message.replace(b">From", b"From")

    def test_octets(self):
        """Its octets are counted without, however it is read."""
        self.write(mbox_of([b"\n>From x\n", b"\n>>From x\n", MESSAGES[0]]))
        self.patch(mailbox_module, "Body", None)
        with self.session() as mailbox:
            texts = [b"\nFrom x\n", b"\n>From x\n", MESSAGES[0]]
            self.assertEqual([*mailbox.messages.octets], [*map(naive_octets, texts)])
            self.assertEqual([read_message(mailbox, at) for at in range(3)], texts)
            cached = [mailbox.read_cached(message, 500) for message in mailbox.messages]
            self.assertEqual(cached, [None, None, MESSAGES[0]])


class RemovalTests(MailboxCase):
    """QUIT."""

    def test_rest(self):
        """What remains is what it was, octet by octet, with its unique-ids."""
        parts = mbox_of(MESSAGES).split(b"From ann@")[1:]
        for removed in range(3):
            uids = self.uids()
            self.remove(removed)
            kept = [at for at in range(3) if at != removed]
            self.assertEqual(self.contents(), b"".join(b"From ann@" + parts[at] for at in kept))
            self.assertEqual(self.uids(), [uids[at] for at in kept])
            self.restart()
            self.assertEqual(self.uids(), [uids[at] for at in kept])
            self.write(mbox_of(MESSAGES))

    def test_not_read(self):
        """A file that only sessions have changed is not read again."""
        self.uids()
        with failing(os, "pread", OSError(errno.EIO, "read again")):
            self.remove(2)
            self.assertEqual(len(self.uids()), 2)
        self.assertEqual(self.read_all(), MESSAGES[:2])

    def test_delivery(self):
        """Mail that was delivered meanwhile is kept."""
        for change in (self.append, lambda octets: self.replace(self.contents() + octets)):
            with self.session() as mailbox:
                change(stored(b"new\n", 9))
                result(mailbox.remove(mailbox.messages))
            self.assertEqual(self.read_all(), [b"new\n"])
            self.write(mbox_of(MESSAGES))

    def test_rewritten(self):
        """Nothing but the marked messages is removed from a file that was rewritten."""
        with self.session() as mailbox:
            self.rewrite(mbox_of([b"new\n"]) + mbox_of(MESSAGES)[: -len(stored(MESSAGES[2]))])
            result(mailbox.remove([mailbox.messages[0], mailbox.messages[2]]))
        self.assertEqual(self.read_all(), [b"new\n", MESSAGES[1]])

    def test_rewritten_and_appended(self):
        """If only what was appended has been read since another program's rewrite, all is read."""
        first, second, last = MESSAGES
        self.uids()
        self.write(b"".join(map(stored, (second, first, last), (1, 0, 2))))
        self.append(stored(b"new\n", 9))
        os.utime(self.path, ns=(OLD, OLD))
        with self.session() as mailbox:
            result(mailbox.remove(mailbox.messages[:1]))
        self.assertEqual(self.read_all(), [second, last, b"new\n"])

    def test_appended_without_a_lock(self):
        """What a program without locks appends after the file was read is kept."""
        real = module.find_removable
        delivered = iter([b"new\n"])

        def find(*args):
            for each in delivered:
                self.append(stored(each, 9))
            return real(*args)

        with self.session() as mailbox, mock.patch.object(module, "find_removable", find):
            result(mailbox.remove(mailbox.messages[:2]))
        self.assertEqual(self.read_all(), [MESSAGES[2], b"new\n"])

    def test_appended_while_it_is_rewritten(self):
        """What a program without locks appends meanwhile is shown by the next session."""
        real = os.utime
        for removed in ([0], [1, 2], [0, 1, 2]):
            self.write(mbox_of(MESSAGES))
            delivered = iter([b"new\n"])

            def utime(*args, delivered=delivered, **kwargs):
                for each in delivered:
                    self.append(stored(each, 9))
                real(*args, **kwargs)

            with self.session() as mailbox, mock.patch.object(os, "utime", utime):
                result(mailbox.remove([mailbox.messages[at] for at in removed]))
            kept = [each for at, each in enumerate(MESSAGES) if at not in removed]
            self.assertEqual(self.read_all(), [*kept, b"new\n"], removed)

    def test_interrupted_delivery(self):
        """What a killed delivery has left is removed before a session changes the file."""
        for act, kept in (
            (lambda mailbox: mailbox.remove(mailbox.messages[:1]), MESSAGES[1:]),
            (lambda mailbox: mailbox.record_retrieved([mailbox.messages[0]]), None),
            (lambda mailbox: mailbox.open(mailbox.messages[0]), MESSAGES),
        ):
            self.write(mbox_of(MESSAGES))
            with self.session() as mailbox:
                self.kill_delivery()
                body = result(act(mailbox))
                if body is not None:
                    b"".join(body)
            self.assertEqual(os.listdir(self.root), ["ann"])
            self.assertEqual(len(self.read_all()), len(kept or MESSAGES))
            if kept is not None:
                self.assertEqual(self.read_all(), kept)

    def test_written_all_the_time(self):
        """If a program without locks does not stop writing, nothing is removed."""
        real = module.find_removable

        def find(*args):
            self.append(b"more\n")
            return real(*args)

        with (
            self.session() as mailbox,
            mock.patch.object(module, "find_removable", find),
            self.assertRaises(RemovalFailed) as failed,
        ):
            result(mailbox.remove(mailbox.messages[:2]))
        self.assertIn("is being written without a lock", str(failed.exception.__cause__))
        self.assertEqual(self.read_all()[:2], MESSAGES[:2])

    def test_half_a_message(self):
        """A message of which only a part was there remains, with a new unique-id."""
        self.append(stored(b"half", 9).rstrip(b"\n"))
        with self.session() as mailbox:
            uids = mailbox.messages.uids
            self.append(b" of it\n\n")
            result(mailbox.remove(mailbox.messages))
        self.assertEqual(self.read_all(), [b"half of it\n"])
        self.assertNotIn(self.uids()[0], uids)

    def test_removed_by_others(self):
        """If another program has removed one of equal messages, the other stays if not marked."""
        self.write(stored(b"same\n") * 2)
        with self.session() as mailbox:
            self.rewrite(stored(b"same\n"))
            result(mailbox.remove(mailbox.messages[:1]))
        self.assertEqual(self.read_all(), [b"same\n"])

    def test_equal_messages(self):
        """Equal messages that remain get an X-UIDL if they would lose their unique-id."""
        self.write(stored(b"A: same\n\nx\n") * 3)
        uids = self.uids()
        self.remove(0)
        self.assertEqual(self.uids(), uids[1:])
        self.restart()
        self.assertEqual(self.uids(), uids[1:])
        self.assertEqual(self.read_all(), [b"A: same\nX-UIDL: %b\n\nx\n" % uid for uid in uids[1:]])
        self.remove(0)
        self.assertEqual(self.uids(), uids[2:])

    def test_x_uidl_and_delivery(self):
        """After X-UIDLs were added the file is read again, although a later message has not moved.

        Two of three equal messages get an X-UIDL, and both together are as long as a message.
        """
        self.write(stored(b"") * 3)
        added = len(b"X-UIDL: %b\n" % self.uids()[1])
        same = stored(b"x" * (2 * added - len(stored(b"\n"))))
        for removed in ((0,), (0, 4)):
            self.write(same * 3 + mbox_of(MESSAGES))
            uids = self.uids()
            self.remove(*removed)
            self.append(stored(b"new\n" * 100, 9))
            kept = [uid for at, uid in enumerate(uids) if at not in removed]
            self.assertEqual(self.uids()[:-1], kept)

    def test_x_uidl(self):
        """A unique-id from X-UIDL stays, and so do those of later messages with the same one."""
        self.write(mbox_of([b"X-UIDL: abc\nA: %d\n\n" % at for at in range(3)]))
        uids = self.uids()
        self.assertEqual(uids[0], b"abc")
        self.remove(0)
        self.restart()
        self.assertEqual(self.uids(), uids[1:])

    def test_used_again(self):
        """Mail that another program appends can have the unique-id of a message that is gone."""
        for message in (b"X-UIDL: abc\nA: 1\n\n", b"A: 1\n\n"):
            self.write(mbox_of([message]))
            (uid,) = self.uids()
            self.remove(0)
            self.restart()
            self.assertEqual(self.uids(), [])
            # With the field of its sender, or equal in all octets, the From_ line included.
            self.append(mbox_of([message.replace(b"\nA: 1", b"\nA: 2")]))
            self.assertEqual(self.uids(), [uid])

    def test_internal_data(self):
        """The data message of c-client and Dovecot stays."""
        self.write(INTERNAL_DATA + mbox_of(MESSAGES))
        self.remove(0, 1, 2)
        self.assertEqual(self.contents(), INTERNAL_DATA)
        self.assertEqual(self.read_all(), [])

    def test_owner_and_times(self):
        """The file keeps its inode, owner, group, mode and times."""
        os.chown(self.path, 12345, 8)
        os.chmod(self.path, 0o660)
        os.utime(self.path, ns=(OLD - 1, OLD))
        before = os.stat(self.path)
        self.remove(0)
        after = os.stat(self.path)
        for name in ("st_ino", "st_uid", "st_gid", "st_mode", "st_atime_ns", "st_mtime_ns"):
            self.assertEqual(getattr(after, name), getattr(before, name), name)

    def test_not_owner(self):
        """Times that this user may not set are left."""
        with failing(os, "utime", PermissionError(errno.EPERM, "not owner")):
            self.remove(0)
        self.assertEqual(self.read_all(), MESSAGES[1:])

    def test_failure(self):
        """If the file cannot be rewritten it is what it was, and the log names it."""
        for name in ("pwrite", "ftruncate"):
            with (
                self.session() as mailbox,
                failing(os, name, OSError(errno.ENOSPC, "no space")),
                self.assertRaises(RemovalFailed) as failed,
            ):
                result(mailbox.remove(mailbox.messages[:2]))
            self.assertEqual(failed.exception.remaining, 2)
            self.assertIn(self.path, str(failed.exception.__cause__))
        # A file that cannot be cut any more keeps what was appended to it.
        self.assertEqual(
            [each.rstrip() for each in self.read_all()[:3]], [*map(bytes.rstrip, MESSAGES)]
        )

    def test_damaged(self):
        """After a failure that cannot be undone the next session reads all of the file again."""
        size = len(mbox_of(MESSAGES))
        writes = count()
        self.patch(rewriting, "CHUNK", 16)
        with (
            self.session() as mailbox,
            failing(
                *(os, "pwrite", OSError(errno.EIO, "I/O error")),
                lambda fd, text, offset: offset < size and next(writes) >= 4,
            ),
            self.assertRaises(RemovalFailed),
        ):
            result(mailbox.remove(mailbox.messages[:1]))
        found = self.uids()
        self.restart()
        self.assertEqual(found, self.uids())
        self.assertNotEqual(self.contents()[:size], mbox_of(MESSAGES))
        self.assertLessEqual({*MESSAGES}, {text.rstrip() + b"\n" for text in self.read_all()})

    def test_read_only(self):
        """A file that may not be written is not changed."""
        denied = PermissionError(errno.EACCES, "denied")
        with failing(os, "open", denied, lambda _, flags, *rest: flags & os.O_RDWR):
            mailbox = result(self.maildrops.open_maildrop(b"ann"))
        with self.assertRaises(RemovalFailed) as failed:
            result(mailbox.remove(mailbox.messages))
        result(mailbox.release())
        self.assertIn("cannot be written for user", str(failed.exception.__cause__))
        self.assertEqual(self.contents(), mbox_of(MESSAGES))

    def test_nothing(self):
        """To remove nothing changes nothing."""
        with self.session() as mailbox:
            result(mailbox.remove([]))
        self.assertEqual(self.contents(), mbox_of(MESSAGES))


class RetrievalTests(MailboxCase):
    """LAST."""

    def last(self):
        """Return the position of the last retrieved message."""
        with self.session() as mailbox:
            last = result(mailbox.last_retrieved())
            return None if last is None else last.position

    def record(self, *positions):
        """Record retrievals in a session of their own."""
        with self.session() as mailbox:
            result(mailbox.record_retrieved([mailbox.messages[at] for at in positions]))

    def test_recorded(self):
        """A retrieval is recorded in Status, where other programs record it, too."""
        self.assertEqual(self.last(), None)
        uids = self.uids()
        self.record(1)
        self.assertEqual(self.last(), 1)
        self.assertEqual(self.uids(), uids)
        self.assertEqual(self.read_all()[1], b"Subject: 2\nStatus: RO\n\ntwo\n")
        self.write(self.contents().replace(b"3\n", b"3\nStatus: R\n"))
        self.assertEqual(self.last(), 2)

    def test_again(self):
        """What is recorded is not recorded again."""
        self.record(0, 1)
        before = self.contents()
        with failing(os, "pwrite", OSError(errno.EIO, "written")):
            self.record(0, 1)
        self.assertEqual(self.contents(), before)

    def test_same_length(self):
        """A retrieval that is recorded without moving the messages is found after a delivery."""
        self.write(mbox_of([b"Status:  O\n\none\n", *MESSAGES]))
        self.uids()
        self.record(0)
        self.append(stored(b"new\n", 9))
        self.assertEqual(self.last(), 0)

    def test_next_message(self):
        """A message without a body gets a Status of its own, whatever the next one has."""
        first, second = FROM_LINE % 0 + b"A: 1\n", stored(b"Status: O\n\ntwo\n", 1)
        self.write(first + second)
        self.record(0)
        self.assertEqual(self.contents(), first + b"Status: RO\n" + second)

    def test_after_removal(self):
        """Retrievals are recorded after removals, of the messages that remain."""
        with self.session() as mailbox:
            result(mailbox.remove(mailbox.messages[:1]))
            result(mailbox.record_retrieved(mailbox.messages[:2]))
        self.assertEqual(
            self.read_all(), [b"Subject: 2\nStatus: RO\n\ntwo\n", b"Subject: 3\n\nthree\n"]
        )

    def test_replaced(self):
        """Retrievals are recorded in the file that another program has put in place of this one."""
        with self.session() as mailbox:
            os.rename(self.path, self.path + ".old")
            self.write(mbox_of(MESSAGES))
            result(mailbox.record_retrieved(mailbox.messages[:1]))
        self.assertIn(b"\nStatus: RO\n", self.contents())

    def test_failure(self):
        """A retrieval that cannot be recorded is logged, and no error."""
        observer = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)
        with mock.patch.object(os, "pwrite", side_effect=OSError(errno.ENOSPC, "full")):
            self.record(0)
        [event] = observer
        self.assertEqual(
            formatEvent(event),
            f"cannot mark retrieved messages as read: {self.path}: full; messages: 1",
        )
        self.assertEqual(self.read_all(), MESSAGES)

    def test_long_header(self):
        """A message keeps its unique-id and is recorded once, however long its header is."""
        for octets in (100_000, MAX_HEADER + 100_000):
            self.write(mbox_of([b"To: x,\n" * (octets // 7) + b"\nbody\n"]))
            uids = self.uids()
            self.record(0)
            size = os.stat(self.path).st_size
            self.restart()
            self.assertEqual(self.uids(), uids)
            self.record(0)
            self.assertEqual(self.last(), 0)
            self.assertEqual(os.stat(self.path).st_size, size)
