"""maildir_side: Maildirs as programs that move mail see them."""

import gzip
import os

from popserv.core.snapshot import Snapshot
from popserv.errors import MaildropBusy, MaildropUnavailable, NoSuchMessage
from popserv.maildrops.maildir.unique_ids import dovecot_uidlist
from popserv.migration.maildir_side import Maildirs, MaildirSide
from tests.maildrops.maildir.harness import MaildirCase

LARGE = b"Subject: x\n\n" + b"y\n" * 100_000


class ChunkedMailbox:
    """Stands for a Maildir with one message, which is read in these chunks."""

    def __init__(self, *chunks):
        self.messages = Snapshot([sum(map(len, chunks))], [b"id"])
        self.chunks = iter(chunks)

    async def open(self, message):
        """See MaildirMailbox."""
        return self.chunks


class MaildirSideTests(MaildirCase):
    """Reading and locking."""

    def setUp(self):
        """Deliver three messages."""
        super().setUp()
        self.put(b"new/1.a", b"Subject: a\r\n\r\nbody\r\n")
        self.put(b"new/2.b", LARGE)
        self.put(b"new/3.c", gzip.compress(LARGE))
        self.maildirs = Maildirs(self.root)

    def test_messages(self):
        """Headers and contents are lines, of large and compressed messages, too."""
        with self.maildirs.opened(b"ann") as side:
            self.assertEqual(list(side.sizes), [20, 300_014, 300_014])
            self.assertEqual(side.unique_ids, {name: name for name in (b"1.a", b"2.b", b"3.c")})
            self.assertEqual(side.header(0)[:2], [b"Subject: a", b""])
            self.assertEqual(side.contents(0), [b"Subject: a", b"", b"body", b""])
            for position in (1, 2):
                self.assertEqual(side.header(position)[:2], [b"Subject: x", b""])
                self.assertLess(len(side.header(position)), 70_000)
                self.assertEqual(side.contents(position), LARGE.split(b"\n"))
            os.unlink(self.path_of(b"new/1.a"))
            self.assertRaises(NoSuchMessage, side.header, 0)

    def test_header(self):
        """Nothing is read after the end of the header, also if that is in two chunks."""
        for chunks in (
            (b"a: b\n\nx",),
            (b"a: b\n", b"\nx"),
            (b"a: b\r\n", b"\r\nx"),
            (b"a: b\r\n\r", b"\nx"),
            (b"a: b", b"\n", b"\r", b"\n"),
            (b"\n\nx",),
        ):
            mailbox = ChunkedMailbox(*chunks, b"rest")
            read = b"".join(chunks).replace(b"\r\n", b"\n").split(b"\n")
            self.assertEqual(MaildirSide(mailbox).header(0), read)
            self.assertEqual([*mailbox.chunks], [b"rest"])

    def test_lock(self):
        """The maildrop is locked meanwhile, and released after an error."""
        with self.maildirs.opened(b"ann"):
            self.assertRaises(MaildropBusy, self.maildirs.opened(b"ann").__enter__)
        with self.assertRaises(ZeroDivisionError), self.maildirs.opened(b"ann"):
            raise ZeroDivisionError
        with self.session():
            self.assertRaises(MaildropBusy, self.maildirs.opened(b"ann").__enter__)

    def test_missing(self):
        """Without a Maildir there is an error with its path."""
        error = self.assertRaises(FileNotFoundError, self.maildirs.opened(b"bob").__enter__)
        self.assertEqual(error.filename, os.fsencode(os.path.join(self.root, "bob")))
        self.assertRaises(MaildropUnavailable, self.maildirs.opened(b"../ann").__enter__)

    def test_errors(self):
        """An error of a file in the Maildir is raised with the path of the file."""
        for error, text in (
            (
                OSError(2, "No such file", dovecot_uidlist.NAME),
                "/ann/dovecot-uidlist: No such file",
            ),
            (OSError(2, "No such file", b"/x"), "No such file"),
        ):
            with self.assertRaises(OSError) as caught, self.maildirs.opened(b"ann"):
                raise error
            self.assertIn(text, str(caught.exception))

    def test_users(self):
        """All users who have a Maildir are found."""
        self.make_maildir(b"bob")
        self.assertEqual(self.maildirs.users(), [b"ann", b"bob"])
