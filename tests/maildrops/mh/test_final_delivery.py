"""popserv.maildrops.mh.final_delivery: new mail in MH folders."""

import errno
import io
import os
import threading
import time
from itertools import count
from unittest.mock import patch

from twisted.trial.unittest import TestCase

from popserv.core.user_settings import NO_SETTINGS, UserSettings
from popserv.errors import MessageTooLarge
from popserv.maildrops import spooling
from popserv.maildrops.mh import mailbox, sequences
from popserv.maildrops.mh.store import MHMaildrops
from popserv.testing import NewMailContract
from tests.maildrops.interrupted import Killed, interposed
from tests.maildrops.maildir.harness import failing, result, run_inline
from tests.maildrops.mh.harness import MHCase

MESSAGE = b"Subject: x\n\n" + b"text\n" * 5000


class ContractTests(NewMailContract, TestCase):
    """MHMaildrops fulfils the contract of new mail."""

    def make_new_mail_store(self):
        """Return an empty store."""
        self.root = os.path.abspath(self.mktemp())
        os.makedirs(self.root)
        return self.restarted(None)

    def restarted(self, store):
        """Return another factory."""
        return MHMaildrops(self.root, run=run_inline)


class FinalDeliveryTests(MHCase):
    """Deliveries to Ann's folder."""

    def deliver(self, user=b"ann", settings=NO_SETTINGS):
        """Deliver a message."""
        result(self.maildrops.deliver_new(user, settings, io.BytesIO(MESSAGE)))

    def contents(self):
        """Return the messages, by number."""
        found = {}
        for name in os.listdir(self.path):
            if name.isdigit():
                with open(os.path.join(self.path, name), "rb") as file:
                    found[int(name)] = file.read()
        return found

    def test_unseen(self):
        """A message gets the next number, and is unseen."""
        for number in (1, 2):
            self.deliver()
            self.assertEqual(max(self.contents()), number)
        with open(os.path.join(self.path, ".mh_sequences")) as file:
            self.assertEqual(file.read(), "unseen: 1-2\n")

    def test_during_quit(self):
        """A message that is delivered while QUIT removes others is unseen."""
        for _ in range(2):
            self.deliver()
        real_scan = mailbox.scan
        thread = threading.Thread(target=self.deliver)

        def scan(fd):
            found = real_scan(fd)
            if thread.ident is None:
                (thread_lock,) = sequences._thread_locks.values()
                thread.start()
                while thread_lock.users < 2 and thread.is_alive():
                    time.sleep(0.001)
            return found

        with patch.object(mailbox, "scan", scan):
            self.remove(0)
        thread.join()
        self.assertEqual(self.sequences(), b"unseen: 2-3\n")

    def test_no_unseen(self):
        """The sequence is made if there is none; other sequences stay, and are not added to."""
        self.deliver()
        self.sequences(b"cur: 1\nretrieved: 1\nmine: 1\n")
        self.deliver()
        self.assertEqual(self.sequences(), b"cur: 1\nretrieved: 1\nmine: 1\nunseen: 2\n")

    def test_path(self):
        """A user's mail goes to the user's own path."""
        settings = UserSettings(maildrop=os.fsencode(self.path))
        self.assertTrue(result(self.maildrops.has_maildrop(b"bob", settings)))
        self.deliver(b"bob", settings)
        self.assertEqual(self.contents(), {1: MESSAGE})

    def test_owner(self):
        """A message is for the owner of the folder alone."""
        os.chown(self.path, 12345, 8)
        self.deliver()
        status = os.stat(self.file(1))
        self.assertEqual((status.st_uid, status.st_gid), (12345, 8))
        self.assertEqual(status.st_mode & 0o777, 0o600)

    def test_synced(self):
        """The message is on disk before it gets its number, and all of it in the end."""
        steps = self.steps()
        self.deliver()
        name, *others = steps
        self.assertTrue(name.startswith(".popserv-deliver-"), name)
        self.assertEqual(others, ["link", ".mh_sequences", "unlink", "ann"])

    def test_no_room(self):
        """A message for which there is no room leaves nothing, and the error names its file."""
        with (
            failing(os, "write", OSError(errno.ENOSPC, "full")),
            self.assertRaises(OSError) as raised,
        ):
            self.deliver()
        self.assertEqual(raised.exception.errno, errno.ENOSPC)
        self.assertIn(self.file(".popserv-deliver-"), str(raised.exception))
        self.assertEqual(os.listdir(self.path), [])

    def test_too_large(self):
        """A message that no session would read is refused."""
        self.patch(spooling, "MAX_MESSAGE", len(MESSAGE))
        self.deliver()
        self.patch(spooling, "MAX_MESSAGE", len(MESSAGE) - 1)
        with self.assertRaises(MessageTooLarge):
            self.deliver()
        self.assertEqual(sorted(os.listdir(self.path)), [".mh_sequences", "1"])

    def test_no_room_for_sequences(self):
        """A message whose sequence cannot be written is not kept: it will be delivered again."""
        self.deliver()
        for name in ("pwrite", "ftruncate"):
            with (
                failing(os, name, OSError(errno.ENOSPC, "full")),
                self.assertRaises(OSError) as raised,
            ):
                self.deliver()
            self.assertEqual(raised.exception.errno, errno.ENOSPC)
            self.assertEqual(sorted(os.listdir(self.path)), [".mh_sequences", "1"])
            self.assertEqual(self.contents(), {1: MESSAGE})

    def test_no_room_and_renumbered(self):
        """A message that has its number meanwhile stays, and the error is the first one."""
        self.deliver()

        def pwrite(*_):
            os.rename(self.file(1), self.file(2))
            raise OSError(errno.ENOSPC, "full")

        with patch.object(os, "pwrite", pwrite), self.assertRaises(OSError) as raised:
            self.deliver()
        self.assertEqual(raised.exception.errno, errno.ENOSPC)
        self.assertEqual(self.contents(), {2: MESSAGE})

    def test_locked(self):
        """If another program has locked the sequences, nothing is left."""
        self.patch(sequences, "LOCK_DELAYS", ())
        self.patch(sequences, "_is_at_path", lambda folder, fd: False)
        with self.assertRaises(OSError) as raised:
            self.deliver()
        self.assertIn(self.path, str(raised.exception))
        self.assertEqual([name for name in os.listdir(self.path) if name != ".mh_sequences"], [])

    def test_abandoned(self):
        """What a delivery has left that was killed is removed by one 36 hours later."""
        self.deliver()
        names = [".popserv-deliver-old", ".popserv-deliver-new", ".other"]
        for name in names:
            path = os.path.join(self.path, name)
            with open(path, "w"):
                pass
            if name != ".popserv-deliver-new":
                os.utime(path, (time.time() - 37 * 3600,) * 2)
        link = self.file(".popserv-deliver-link")
        os.symlink("nowhere", link)
        os.utime(link, (time.time() - 37 * 3600,) * 2, follow_symlinks=False)
        self.deliver()
        self.assertEqual(sorted({*names} & {*os.listdir(self.path)}), sorted(names[1:]))
        self.assertFalse(os.path.islink(link))

    def test_interrupted(self):
        """Killed at any system call, or without room, whole messages have numbers."""
        for error in (Killed(), OSError(errno.ENOSPC, "full")):
            for number in count():

                def before(name, at, number=number, error=error):
                    if at >= number and (name != "unlink" or isinstance(error, Killed)):
                        raise error

                is_done = True
                try:
                    with interposed(before):
                        self.deliver()
                except (Killed, OSError):
                    is_done = False
                self.assertLessEqual(set(self.contents().values()), {MESSAGE})
                if is_done:
                    break
            self.assertGreater(number, 5)
