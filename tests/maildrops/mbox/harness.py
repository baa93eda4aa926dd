"""An mbox file for tests, and what other programs do to it."""

import os
from contextlib import contextmanager

from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.mbox import Format, MboxMaildrops
from tests.maildrops.maildir.harness import read_message, result, run_inline, watch_descriptors

FROM_LINE = b"From ann@example.org Mon Jan  5 10:00:%02d 2026\n"

OLD = 1_600_000_000 * 10**9
"""A time long ago, in nanoseconds."""

INTERNAL_DATA = (
    b"From MAILER-DAEMON Mon Jan  5 10:00:00 2026\n"
    b"Subject: DON'T DELETE THIS MESSAGE -- FOLDER INTERNAL DATA\nX-IMAP: 1 2\n\nx\n\n"
)
"""The message that Dovecot and the C-client library keep at the start of a file."""


def stored(message, number=0):
    """Return a message as a delivery agent writes it: with a From_ line and line ends."""
    if message and not message.endswith(b"\n"):
        message += b"\n"
    return FROM_LINE % (number % 60) + message + b"\n"


def mbox_of(messages):
    """Return an mbox file of messages."""
    return b"".join(stored(message, number) for number, message in enumerate(messages))


async def wait_not(seconds):
    """Wait for no time at all."""


class MboxCase(SynchronousTestCase):
    """Ann's mbox file, and what other programs do to it; no test may leave a file open."""

    format = Format()
    downgrader = None

    def setUp(self):
        """Make the directory."""
        self.root = os.path.abspath(self.mktemp())
        os.makedirs(self.root)
        self.path = os.path.join(self.root, "ann")
        self.restart()
        watch_descriptors(self)

    def restart(self):
        """Drop everything that is in memory."""
        self.maildrops = MboxMaildrops(
            self.root, self.format, downgrader=self.downgrader, run=run_inline, wait=wait_not
        )

    def write(self, octets):
        """Write the file, long ago."""
        with open(self.path, "wb") as file:
            file.write(octets)
        os.utime(self.path, ns=(OLD, OLD))

    def append(self, octets):
        """Append to the file, as a delivery agent does."""
        with open(self.path, "ab") as file:
            file.write(octets)

    def contents(self):
        """Return the octets of the file."""
        with open(self.path, "rb") as file:
            return file.read()

    @contextmanager
    def session(self, user=b"ann", maildrops=None):
        """Open a maildrop, and release it in the end."""
        mailbox = result((maildrops or self.maildrops).open_maildrop(user))
        try:
            yield mailbox
        finally:
            result(mailbox.release())

    def read_all(self):
        """Return all messages, read in a session of their own."""
        with self.session() as mailbox:
            return [read_message(mailbox, at) for at in range(len(mailbox.messages))]

    def uids(self):
        """Return all unique-ids, read in a session of their own."""
        with self.session() as mailbox:
            return [message.uid for message in mailbox.messages]

    def remove(self, *positions):
        """Remove messages in a session of their own."""
        with self.session() as mailbox:
            result(mailbox.remove([mailbox.messages[at] for at in positions]))
