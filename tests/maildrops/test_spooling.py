"""popserv.maildrops.spooling: messages on their way to a store."""

import errno
import os
import tempfile
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from popserv.errors import MessageTooLarge
from popserv.maildrops import spooling
from popserv.maildrops.spooling import check_length, spool, write_file
from tests.maildrops.maildir.harness import result, watch_descriptors


class Body:
    """The chunks of a body, which remembers that it was closed."""

    closed = False

    def __init__(self, *chunks):
        self._chunks = chunks

    def __iter__(self):
        """Yield the chunks; raise those that are exceptions."""
        for chunk in self._chunks:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk

    def close(self):
        """Remember it."""
        self.closed = True


async def awaited(text):
    """Return a text, as a chunk that was read in a thread."""
    return text


class SpoolTests(SynchronousTestCase):
    """A body is spooled, and written to a file."""

    def setUp(self):
        """Keep few octets in memory, and record what is written otherwise."""
        watch_descriptors(self)
        self.patch(spooling, "MAX_IN_MEMORY", 10)
        self.in_threads = []

    async def run_in_thread(self, function, *args):
        """Call a function, and record its arguments."""
        self.in_threads.append(args)
        return function(*args)

    def test_closed(self):
        """A file that cannot be closed, when nobody needs it any more, is no error."""
        for close in (lambda file: file.close(), lambda file: file.__exit__(None, None, None)):
            file = spooling.spool_file()
            failing = mock.Mock()
            failing.close.side_effect = OSError(errno.EIO, "as NFS may say")
            with mock.patch.object(file, "_file", failing):
                close(file)
            failing.close.assert_called_once_with()
            file.close()

    def test_spooled(self):
        """The file has all chunks, and what is not in memory is written in a thread."""
        body = Body(b"12345", awaited(b"67890"), b"abc", b"")
        with result(spool(body, self.run_in_thread)) as file:
            self.assertEqual(file.read(), b"1234567890abc")
        self.assertEqual([text for _, text in self.in_threads], [b"abc", b""])
        self.assertTrue(body.closed)

    def test_no_room(self):
        """If there is no room, the error names the directory."""
        error = OSError(errno.ENOSPC, "No space left on device")
        file = mock.Mock(write=mock.Mock(side_effect=error))
        with (
            mock.patch.object(spooling, "_File", return_value=file),
            mock.patch.object(spooling, "MAX_IN_MEMORY", 0),
            self.assertRaises(OSError) as raised,
        ):
            result(spool(Body(b"x"), self.run_in_thread))
        self.assertEqual(raised.exception.filename, tempfile.gettempdir())
        file.close.assert_called_once_with()

    def test_still_no_room(self):
        """Nor does an error without it follow when the file is read or closed."""
        for text in (b"x" * 11, b"x" * 1_000_000):
            with (
                open("/dev/full", "w+b") as full,
                mock.patch.object(spooling, "_File", return_value=full),
                self.assertRaises(OSError) as raised,
            ):
                result(spool(Body(text), self.run_in_thread))
            self.assertEqual(raised.exception.filename, tempfile.gettempdir())
            self.assertTrue(full.closed)

    def test_plain(self):
        """A body need not have a method to close it."""
        with result(spool([b"x"], self.run_in_thread)) as file:
            self.assertEqual(file.read(), b"x")

    def test_failure(self):
        """An error of the body is passed on, and everything closed."""
        body = Body(b"x" * 20, KeyError())
        self.assertRaises(KeyError, result, spool(body, self.run_in_thread))
        self.assertTrue(body.closed)

    def test_too_large(self):
        """A file that may be too large is at its start after the check, or refused."""
        self.patch(spooling, "MAX_MESSAGE", 7)
        with result(spool([b"1234567"], self.run_in_thread)) as body:
            body.read(2)
            check_length(body)
            self.assertEqual(body.tell(), 0)
            with self.assertRaises(MessageTooLarge) as raised:
                check_length(body, 1)
        self.assertEqual(str(raised.exception), "it has more than 7 octets")

    def test_written(self):
        """A file gets the octets, whatever one write takes, and the time; then it is synced."""
        real, synced = os.write, []
        self.patch(os, "write", lambda fd, text: real(fd, text[:3]))
        self.patch(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_size))
        for delivered in (1_600_000_000.25, 0.5, 0):
            path = self.mktemp()
            fd = os.open(path, os.O_WRONLY | os.O_CREAT)
            with result(spool([b"1234567"], self.run_in_thread)) as body:
                self.assertEqual(write_file(body, fd, delivered), 7)
            os.close(fd)
            with open(path, "rb") as file:
                self.assertEqual(file.read(), b"1234567")
            modified = os.stat(path).st_mtime
            self.assertEqual(modified == delivered, bool(delivered))
        self.assertEqual(synced, [7, 7, 7])


class MemoryTests(SynchronousTestCase):
    """What is in memory."""

    def test_usual(self):
        """A message of usual size needs neither a thread nor a file; a large one needs both."""
        for octets, is_large in ((100_000, False), (5 << 20, True)):
            in_threads = []

            async def run(function, *args, in_threads=in_threads):
                in_threads.append(function)
                return function(*args)

            with result(spool([b"x" * octets], run)) as file:
                self.assertEqual(bool(in_threads), is_large)
                self.assertEqual(file.name is not None, is_large)
