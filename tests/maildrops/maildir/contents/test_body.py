"""popserv.maildrops.maildir.contents.body: chunks come from the page cache, or from a thread."""

import errno
import os
from contextlib import contextmanager
from itertools import chain, islice
from unittest import mock

from popserv.errors import MaildropUnavailable, MessageChanged
from popserv.server.body import close_body
from popserv.testing import read_all
from tests.maildrops.maildir.harness import MaildirCase, failing, result


class BodyTests(MaildirCase):
    """The chunks of a message are its bytes, wherever they are read."""

    message = b"".join(b"%d\n" % n for n in range(100_000))

    def setUp(self):
        """Deliver one large message."""
        super().setUp()
        self.put(b"new/1.a", self.message)

    @contextmanager
    def body(self):
        """Open the message, and close the body in the end."""
        with self.session() as mailbox:
            body = result(mailbox.open(mailbox.messages[0]))
            try:
                # As an iterator without ``close``, which is called below.
                yield chain(body)
            finally:
                close_body(body)

    def empty_page_cache(self):
        """Let no read be served from the page cache."""
        return failing(os, "preadv", BlockingIOError(errno.EAGAIN, "not there yet"))

    def test_cached(self):
        """Chunks that the page cache has are bytes, and no thread reads any."""
        real = os.preadv
        with self.session():
            # Counts the message.
            pass
        # Not every file system supports RWF_NOWAIT.
        with (
            mock.patch.object(os, "preadv", lambda fd, to, at, _flags: real(fd, to, at)),
            failing(os, "pread", AssertionError),
            self.body() as body,
        ):
            self.assert_whole(list(body))

    def test_uncached(self):
        """Other chunks are read in a thread, one at a time, the first when the body is opened."""
        with self.empty_page_cache(), self.body() as body:
            first, *rest = body
            self.assert_whole([first, *map(result, rest)])

    def test_small_uncached(self):
        """A small message that the page cache does not have is read in a thread, too."""
        self.put(b"new/1.a", b"small\n")
        with self.empty_page_cache(), self.body() as body:
            self.assertEqual(list(body), [b"small\n"])

    def assert_whole(self, chunks):
        """Check chunks and their sizes."""
        self.assertEqual(b"".join(chunks), self.message)
        self.assertEqual({len(chunk) for chunk in chunks[:-1]}, {1 << 17})
        self.assertLessEqual(len(chunks[-1]), 1 << 17)

    def test_shrunk(self):
        """A file that became shorter is a changed message, and never one that ends early."""
        for size in (0, 1 << 17, len(self.message) - 1):
            self.put(b"new/1.a", self.message)
            with self.body() as body:
                os.truncate(self.path_of(b"new/1.a"), size)
                with self.assertRaises(MessageChanged):
                    result(read_all(body))

    def test_half_cached(self):
        """A chunk that the page cache has in part is read in a thread."""
        with self.body() as body, mock.patch.object(os, "preadv", return_value=1):
            first, *rest = body
            self.assert_whole([first, *map(result, rest)])

    def test_grown(self):
        """Of a file that became longer only the former length is sent."""
        with self.body() as body:
            self.put(b"new/1.a", self.message + b"more\n" * 100_000)
            self.assertEqual(result(read_all(body)), self.message)

    def test_closed_early(self):
        """A body closes its file if it is read whole, in part or not at all."""
        # MaildirCase checks after every test that no file is left open.
        for chunks in (0, 1, 2, 100):
            with self.session() as mailbox:
                body = result(mailbox.open(mailbox.messages[0]))
            result(read_all(islice(body, chunks)))
            body.close()

    def test_outlives_the_session(self):
        """A body is read to its end although its message is removed and its maildrop released."""
        with self.session() as mailbox:
            body = result(mailbox.open(mailbox.messages[0]))
            chunks = iter(body)
            start = next(chunks)
            result(mailbox.remove(mailbox.messages))
        self.assertEqual(self.file_names(), [])
        self.assertEqual(start + result(read_all(body)), self.message)

    def test_unreadable(self):
        """A message whose start cannot be read is refused, and its file closed."""
        broken = OSError(errno.EIO, "disk")
        self.put(b"new/2.b", b"small\n")
        with self.session() as mailbox, self.empty_page_cache(), failing(os, "pread", broken):
            for message in mailbox.messages:
                with self.assertRaises(MaildropUnavailable) as refused:
                    result(mailbox.open(message))
                cause = str(refused.exception.__cause__)
                self.assertRegex(cause, f"^{self.root}/ann/new/[12].[ab]: disk$")

    def test_shrunk_at_once(self):
        """A file that becomes shorter before its start is read is a changed message."""
        with (
            self.session() as mailbox,
            self.empty_page_cache(),
            mock.patch.object(os, "pread", lambda fd, octets, offset: b""),
            self.assertRaises(MessageChanged),
        ):
            result(mailbox.open(mailbox.messages[0]))
