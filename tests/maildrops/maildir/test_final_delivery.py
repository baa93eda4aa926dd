"""popserv.maildrops.maildir.final_delivery: new mail in Maildirs."""

import errno
import io
import os
from itertools import count
from pathlib import Path

from twisted.trial.unittest import TestCase

from popserv.core.user_folder import UserFolder
from popserv.core.user_settings import NO_SETTINGS, UserSettings
from popserv.maildrops.maildir.configured import ConfiguredMaildirs
from popserv.maildrops.maildir.store import MaildirMaildrops
from popserv.maildrops.settings import StoreSettings
from popserv.testing import NewMailContract
from tests.maildrops.interrupted import Killed, interposed
from tests.maildrops.maildir.harness import MaildirCase, result, run_inline, uids_of

MESSAGE = b"Subject: x\n\n" + b"text\n" * 5000


class ContractTests(NewMailContract, TestCase):
    """MaildirMaildrops fulfils the contract of new mail."""

    def make_new_mail_store(self):
        """Return an empty store."""
        self.root = os.path.abspath(self.mktemp())
        os.makedirs(self.root)
        return self.restarted(None)

    def restarted(self, store):
        """Return another factory."""
        return MaildirMaildrops(self.root, run=run_inline)


class ConfiguredContractTests(ContractTests):
    """The store of --store maildir:PATH fulfils it as well."""

    def restarted(self, store):
        """Return another factory."""
        return ConfiguredMaildirs(self.root, StoreSettings(cache_messages=100))


class FinalDeliveryTests(MaildirCase):
    """Ann has a Maildir."""

    def deliver(self, user=b"ann", settings=NO_SETTINGS, message=MESSAGE, **more):
        """Deliver a message with a new factory, and return its unique-id."""
        store = MaildirMaildrops(self.root, run=run_inline, **more)
        return result(store.deliver_new(user, settings, io.BytesIO(message)))

    def files(self, folder="*"):
        """Return the contents of the files below the root in these folders."""
        return [each.read_bytes() for each in Path(self.root).rglob(f"{folder}/*.*")]

    def test_unique_id(self):
        """The unique-id is the one that sessions show."""
        uid = self.deliver()
        with self.session() as mailbox:
            self.assertEqual(uids_of(mailbox), [uid])

    def test_other_unique_ids(self):
        """If another server's unique-ids are used, that of new mail is not known yet."""
        self.assertIsNone(self.deliver(uidl="dovecot"))

    def test_path(self):
        """A user's mail goes to the user's own path, where other mail is found as well."""
        settings = UserSettings(maildrop=os.fsencode(self.root) + b"/elsewhere")
        self.deliver(b"bob", settings)
        self.assertEqual({each.name for each in Path(self.root).iterdir()}, {"ann", "elsewhere"})
        store = MaildirMaildrops(self.root, run=run_inline)
        self.assertTrue(result(store.has_maildrop(b"bob", settings)))
        self.assertFalse(result(store.has_maildrop(b"bob", NO_SETTINGS)))

    def test_folder(self):
        """A folder that exists gets mail; there is none of an invalid name."""
        store = MaildirMaildrops(self.root, run=run_inline)
        folder = UserFolder(b"ann", b"Lists")
        self.assertFalse(result(store.has_maildrop(folder, NO_SETTINGS)))
        os.mkdir(self.path_of(b".Lists"))
        self.assertTrue(result(store.has_maildrop(folder, NO_SETTINGS)))
        for name in (b"a/b", b"\xff", b".."):
            self.assertFalse(result(store.has_maildrop(UserFolder(b"ann", name), NO_SETTINGS)))
        self.deliver(folder)
        self.assertEqual(self.files(".Lists/new"), [MESSAGE])

    def test_quota(self):
        """A line in the quota file says how many octets were delivered."""
        quota = Path(os.fsdecode(self.path_of(b"maildirsize")))
        quota.write_bytes(b"1000000S\n5 1\n")
        self.deliver()
        self.assertEqual(quota.read_bytes(), b"1000000S\n5 1\n%d 1\n" % len(MESSAGE))

    def test_killed(self):
        """Killed at any system call, new/ has the whole message or nothing."""
        for number in count():

            def before(name, at, number=number):
                if at >= number:
                    raise Killed

            self.reset()
            try:
                with interposed(before):
                    self.deliver(b"bob")
            except Killed:
                self.assertIn(self.files("new"), ([], [MESSAGE]))
            else:
                break
        self.assertGreater(number, 8)
        self.assertEqual(self.files(), [MESSAGE])

    def test_full_disk(self):
        """If the disk is full, the error says where, and nothing is left."""
        for number in count():

            def before(name, at, number=number):
                if at == number and name in ("open", "mkdir", "rename", "fsync"):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            self.reset()
            failed = False
            try:
                with interposed(before):
                    self.deliver(b"bob")
            except OSError as error:
                failed = True
                self.assertEqual(error.errno, errno.ENOSPC)
                self.assertEqual(self.files("tmp"), [])
            if not failed and number > 30:
                break

    def reset(self):
        """Remove Bob's Maildir."""
        for path in sorted(Path(self.root, "bob").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
