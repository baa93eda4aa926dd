"""An MH folder for tests, and what other programs do to it."""

import os
from contextlib import contextmanager
from itertools import count

from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.mh import MHMaildrops
from popserv.maildrops.mh.folder import scan
from tests.maildrops.maildir.harness import read_message, result, run_inline, watch_descriptors

OLD = 1_600_000_000 * 10**9
"""A time long ago, in nanoseconds."""

_serial = count()


def deliver(folder, message, number=None):
    """Write a message with the next number, and a time that no other one has; return the number."""
    os.makedirs(folder, exist_ok=True)
    number = number or max([0, *numbers_in(folder)]) + 1
    path = os.path.join(folder, str(number))
    with open(path, "wb") as file:
        file.write(message)
    modified = OLD + next(_serial)
    os.utime(path, ns=(modified, modified))
    return number


def numbers_in(folder):
    """Return the numbers of the messages in order."""
    return sorted(int(name) for name in os.listdir(folder) if name.isdigit())


def pack(folder):
    """Renumber the messages from 1, as ``folder -pack`` does."""
    for new, old in enumerate(numbers_in(folder), 1):
        os.rename(os.path.join(folder, str(old)), os.path.join(folder, str(new)))


class MHCase(SynchronousTestCase):
    """Ann's folder, and what other programs do to it; no test may leave a file open."""

    downgrader = None

    def setUp(self):
        """Make an empty folder."""
        self.root = os.path.abspath(self.mktemp())
        self.path = os.path.join(self.root, "ann")
        os.makedirs(self.path)
        self.restart()
        watch_descriptors(self)

    def restart(self):
        """Drop everything that is in memory."""
        self.maildrops = MHMaildrops(self.root, downgrader=self.downgrader, run=run_inline)

    def file(self, name):
        """Return the path of a name in the folder."""
        return os.path.join(self.path, str(name))

    def deliver(self, *messages):
        """Deliver messages."""
        for message in messages:
            deliver(self.path, message)

    def sequences(self, text=None):
        """Write the file of sequences, or return its contents."""
        path = self.file(".mh_sequences")
        if text is not None:
            with open(path, "wb") as file:
                file.write(text)
        if not os.path.exists(path):
            return None
        with open(path, "rb") as file:
            return file.read()

    @contextmanager
    def folder(self):
        """Open the folder's directory."""
        fd = os.open(self.path, os.O_RDONLY)
        try:
            yield fd
        finally:
            os.close(fd)

    def steps(self):
        """Return a list that has each sync, rename, link and removal from now on.

        A sync is the name of what is synced, and any other of them that of the function.
        """
        steps = []

        def record(name):
            real = getattr(os, name)

            def call(first, *args, **kwargs):
                is_sync = isinstance(first, int)
                steps.append(os.path.basename(os.readlink(f"/dev/fd/{first}")) if is_sync else name)
                return real(first, *args, **kwargs)

            self.patch(os, name, call)

        for name in ("fsync", "rename", "link", "unlink"):
            record(name)
        return steps

    def scan(self):
        """Scan the folder."""
        with self.folder() as fd:
            return scan(fd)

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
