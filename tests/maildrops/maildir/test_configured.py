"""Tests of popserv.maildrops.maildir.configured."""

import os
import time
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase
from zope.interface import providedBy
from zope.interface.verify import verifyObject

from popserv.core.user_folder import UserFolder
from popserv.core.user_settings import UnsupportedSettings, UserSettings
from popserv.errors import MaildropBusy, RemovalFailed
from popserv.interfaces import (
    IConfigurableStore,
    IDeliveryStore,
    IReadOnlyMailbox,
    IUserListing,
)
from popserv.maildrops.maildir import configured, folders
from popserv.maildrops.maildir.configured import ConfiguredMaildirs
from popserv.maildrops.maildir.hiding import HidingMaildrops
from popserv.maildrops.maildir.unique_ids import pinned_file
from popserv.maildrops.maildir.unique_ids.pinned_file import Pins
from popserv.maildrops.recent import RecentMaildrops
from popserv.maildrops.settings import StoreSettings
from popserv.messages.downgrade.downgrader import Downgrader
from tests.maildrops.maildir.harness import MaildirCase, read_message, result, run_inline

SETTINGS = StoreSettings(cache_messages=7, downgrader=Downgrader, uidl="%f")


class ConfiguredMaildirsTests(SynchronousTestCase):
    """The store for a path and the settings of the server."""

    def test_settings(self):
        """The store has the path, the share of the cache, the downgrader and the format."""
        root = self.mktemp()
        os.makedirs(root)
        for template in (root, f"{root}/%d/%n"):
            with patch.object(configured, "MaildirMaildrops") as store:
                ConfiguredMaildirs(template, SETTINGS)
            store.assert_called_once_with(
                template, cache_messages=7, downgrader=Downgrader, uidl="%f", folder="", trash=""
            )

    def test_uidl(self):
        """An invalid format of unique-ids is rejected with the name of its option."""
        settings = StoreSettings(cache_messages=7, uidl="%m")
        error = self.assertRaises(ValueError, ConfiguredMaildirs, self.mktemp(), settings)
        self.assertIn("--uidl %m: %m: only an mbox file has MD5 sums", str(error))

    def test_folder(self):
        """A folder is a directory in each Maildir; a client may choose another one."""
        root = self.mktemp()
        os.makedirs(root)
        settings = StoreSettings(7, folder="100%.Entw\xfcrfe", folder_delimiter="+")
        with patch.object(configured, "MaildirMaildrops") as store:
            ConfiguredMaildirs(root, settings)
        self.assertEqual(store.call_args.kwargs["folder"], ".100%.Entw&APw-rfe")
        with self.assertRaises(ValueError) as rejected:
            ConfiguredMaildirs(root, StoreSettings(7, folder="../x"))
        self.assertIn("--folder: '../x' contains a slash", str(rejected.exception))

    def test_deleted(self):
        """Removed messages are moved to a folder of the same Maildir."""
        root = self.mktemp()
        os.makedirs(root)
        for folder in ("INBOX", "Sent"):
            with patch.object(configured, "MaildirMaildrops") as store:
                ConfiguredMaildirs(root, StoreSettings(7, folder=folder, deleted="move:Trash.a"))
            self.assertEqual(store.call_args.kwargs["trash"], ".Trash.a")
        for deleted, message in (
            ("hide", "--deleted: must be remove, keep or move:FOLDER, not 'hide'"),
            ("move", "--deleted: must be"),
            ("drop:x", "--deleted: must be"),
            ("move:", "--deleted: must be"),
            ("move:a..b", "--deleted: 'a..b' has an empty level"),
            ("move:../x", "--deleted: '../x' contains a slash"),
            ("move:INBOX", "--deleted: 'INBOX' is the inbox"),
            (
                "move:Sent",
                "--deleted: 'Sent' is the inbox or the folder that is served; name another",
            ),
        ):
            with self.assertRaises(ValueError) as rejected:
                ConfiguredMaildirs(root, StoreSettings(7, folder="Sent", deleted=deleted))
            self.assertIn(message, str(rejected.exception))

    def test_keep(self):
        """Removed messages are kept."""
        root = self.mktemp()
        os.makedirs(root)
        store = ConfiguredMaildirs(root, StoreSettings(7, deleted="keep"))
        self.assertIsInstance(store._store, HidingMaildrops)

    def test_since(self):
        """An age hides older messages."""
        root = self.mktemp()
        os.makedirs(root)
        store = ConfiguredMaildirs(root, StoreSettings(7, since=1))
        self.assertIsInstance(store._store, RecentMaildrops)


class UserSettingsTests(MaildirCase):
    """The settings of one user."""

    def restart(self, **settings):
        """Make the store with settings of the server."""
        self.maildrops = ConfiguredMaildirs(self.root, StoreSettings(1000, **settings))
        self.maildrops._maildirs.run = run_inline

    def open(self, user=b"ann", **settings):
        """Open a mailbox with settings of its user."""
        return result(self.maildrops.open_configured(user, UserSettings(**settings)))

    def contents(self, **settings):
        """Return the messages that a session with these settings shows."""
        mailbox = self.open(**settings)
        contents = [read_message(mailbox, at) for at in range(len(mailbox.messages))]
        result(mailbox.release())
        return contents

    def remove_all(self, **settings):
        """Remove all messages that a session with these settings shows."""
        mailbox = self.open(**settings)
        try:
            result(mailbox.remove(list(mailbox.messages)))
        finally:
            result(mailbox.release())

    def tree(self):
        """Return all paths in Ann's Maildir, with the times of the files."""
        return {
            os.path.join(path, name): os.stat(os.path.join(path, name)).st_mtime_ns
            for path, directories, files in os.walk(self.path_of(b""))
            for name in (*directories, *files)
        }

    def test_interface(self):
        """The store provides what Maildirs do, and IConfigurableStore."""
        for interface in (*providedBy(self.maildrops._maildirs), IConfigurableStore):
            self.assertTrue(verifyObject(interface, self.maildrops))

    def test_unsupported(self):
        """A setting that is not one of Maildirs is refused."""
        opened = self.maildrops.open_configured(b"ann", UserSettings(max_user_sessions=2))
        error = self.assertRaises(UnsupportedSettings, result, opened)
        self.assertIn("popserv_max_user_sessions", str(error))

    def test_diagnosis(self):
        """What is wrong with the directory, the settings and the Maildir of a user is found."""
        settings = UserSettings(deleted="move:INBOX")
        os.rmdir(self.path_of(b"cur"))
        os.symlink("nowhere", self.path_of(b"cur"))
        codes = [each.code for each in self.maildrops.diagnose_maildrop(b"ann", settings)]
        self.assertEqual(codes[0], "user-settings")
        self.assertIn("maildrop-unusable", codes)
        os.mknod(os.path.join(self.root, "bob"))
        self.assertIn("maildrop-kind", [each.code for each in result(self.maildrops.diagnose())])

    def test_one_lock(self):
        """Sessions with and without settings exclude each other, also of a missing Maildir."""
        for user in (b"ann", b"nobody"):
            mailbox = self.open(user, read_only=True)
            for opened in (
                self.maildrops.open_maildrop(user),
                self.maildrops.open_configured(user, UserSettings(since=1)),
            ):
                self.assertRaises(MaildropBusy, result, opened)
            result(mailbox.release())

    def test_read_only(self):
        """Nothing is written into the Maildir: no removal, no flag, no file of popserv's."""
        for number in range(150):
            self.put(b"new/%d.x" % number)
        self.put(b"cur/150.x:2,", b"y\n")
        before = self.tree()
        mailbox = self.open(read_only=True)
        self.assertTrue(verifyObject(IReadOnlyMailbox, mailbox))
        messages = list(mailbox.messages)
        self.assertEqual(read_message(mailbox, 150), b"y\n")
        result(mailbox.record_retrieved(messages))
        result(mailbox.discard_sizes())
        result(mailbox.remove([]))
        self.assertRaises(RemovalFailed, result, mailbox.remove(messages))
        result(mailbox.release())
        self.assertEqual(self.tree(), before)
        # Any other user's session would have saved the sizes.
        result(self.open(since=10**10).release())
        self.assertNotEqual(self.tree(), before)

    def test_read_only_layers(self):
        """A read-only mailbox is one also when messages are hidden by age or by --deleted keep."""
        self.restart(deleted="keep")
        self.put(b"cur/1.old", b"old\n")
        self.put(b"cur/%d.new" % time.time(), b"new\n")
        before = self.tree()
        mailbox = self.open(read_only=True, since=3600)
        self.assertTrue(IReadOnlyMailbox.providedBy(mailbox))
        self.assertEqual(len(mailbox.messages), 1)
        result(mailbox.release())
        self.assertEqual(self.tree(), before)

    def test_read_only_unique_ids(self):
        """With unique-ids of another server, which would be added to, read-only is refused."""
        self.restart(uidl="dovecot")
        opened = self.maildrops.open_configured(b"ann", UserSettings(read_only=True))
        error = self.assertRaises(UnsupportedSettings, result, opened)
        self.assertIn("popserv_read_only requires --uidl filename", str(error))

    def test_read_only_pins(self):
        """Unique-ids that are pinned are shown, and the file with them is not rewritten."""
        self.patch(folders, "TRUSTED_AGE", -(10**12))
        self.put(b"cur/1.x")
        self.put(b"cur/2.x")
        maildir = os.open(self.path_of(b""), os.O_RDONLY)
        # Most of them are missing, which any other session would note.
        pinned_file.save(maildir, Pins({b"1.x": b"P1", b"8.x": b"P8", b"9.x": b"P9"}))
        os.close(maildir)
        before = self.tree()
        for _ in range(2):
            mailbox = self.open(read_only=True)
            self.assertEqual(list(mailbox.messages.uids), [b"P1", b"2.x"])
            result(mailbox.release())
        self.assertEqual(self.tree(), before)
        result(self.open(since=10**10).release())
        self.assertNotEqual(self.tree(), before)

    def test_since(self):
        """An age of the user replaces that of the server."""
        now = time.time()
        for days in (300, 20, 1):
            self.put(b"cur/%d.x" % (now - days * 86400), b"%d\n" % days)
        for server, user, shown in (
            (None, None, [b"300\n", b"20\n", b"1\n"]),
            (None, 30 * 86400, [b"20\n", b"1\n"]),
            (2 * 86400, None, [b"1\n"]),
            (2 * 86400, 30 * 86400, [b"20\n", b"1\n"]),
        ):
            self.restart(since=server)
            self.assertEqual(self.contents(since=user), shown)

    def test_deleted(self):
        """What happens to deleted messages can differ from the server's setting."""
        self.restart(deleted="move:Trash")
        self.put(b"cur/1.x", b"x\n")
        self.remove_all(deleted="keep")
        self.assertEqual(self.contents(deleted="keep"), [])
        self.assertEqual(self.contents(), [b"x\n"])
        self.remove_all(deleted="move:Old")
        self.assert_moved(b".Old", rb"1\.R\w+:2,")
        self.put(b"cur/2.x")
        self.remove_all(read_only=False, deleted="remove")
        self.put(b"cur/3.x")
        self.remove_all(since=10**10)
        self.assert_moved(b".Trash", rb"3\.R\w+:2,")

    def assert_moved(self, folder, name):
        """Check that a folder has one message, whose name is of this kind."""
        (found,) = os.listdir(self.path_of(folder + b"/cur"))
        self.assertRegex(found, name)

    def test_deleted_folder(self):
        """A folder that cannot be one, or is the one that is served, is refused."""
        self.restart(folder="Sent")
        for folder in ("../x", "INBOX", "Sent"):
            opened = self.maildrops.open_configured(b"ann", UserSettings(deleted=f"move:{folder}"))
            error = self.assertRaises(UnsupportedSettings, result, opened)
            self.assertIn("popserv_deleted: ", str(error))

    def test_maildrop(self):
        """A path of the user replaces that of the store; users can share it, one at a time."""
        self.put(b"cur/1.x", b"ann\n")
        self.make_maildir(b"100%")
        self.put(b"cur/1.x", b"other\n", b"100%")
        path = os.path.join(os.fsencode(self.root), b"100%")
        for _ in range(2):
            self.assertEqual(self.contents(maildrop=path), [b"other\n"])
            self.assertEqual(self.contents(), [b"ann\n"])
        mailbox = self.open(b"bob", maildrop=path)
        opened = self.maildrops.open_configured(b"ann", UserSettings(maildrop=path))
        self.assertRaises(MaildropBusy, result, opened)
        result(mailbox.release())

    def test_maildrop_folder(self):
        """The folder that is served is that of the Maildir at the path."""
        self.restart(folder="Sent")
        self.make_maildir(b"other/.Sent")
        self.put(b"cur/1.x", b"sent\n", b"other/.Sent")
        path = os.path.join(os.fsencode(self.root), b"other")
        self.assertEqual(self.contents(maildrop=path), [b"sent\n"])

    def test_client_folder(self):
        """A folder that the client names is one of the Maildir at the path, and kept apart."""
        self.restart(folder_delimiter="+")
        self.make_maildir(b"other")
        self.make_maildir(b"other/.Sent")
        self.put(b"cur/1.x", b"inbox\n", b"other")
        self.put(b"cur/1.x", b"sent\n", b"other/.Sent")
        path = os.path.join(os.fsencode(self.root), b"other")
        settings = UserSettings(maildrop=path, read_only=True)
        for user, shown in ((UserFolder(b"ann", b"Sent"), b"sent\n"), (b"ann", b"inbox\n")):
            mailbox = result(self.maildrops.open_configured(user, settings))
            self.assertEqual(read_message(mailbox, 0), shown)
            result(mailbox.release())

    def test_listing_and_delivery(self):
        """The store lists its users and takes deliveries, as its Maildirs do."""
        self.assertTrue(verifyObject(IUserListing, self.maildrops))
        self.assertTrue(verifyObject(IDeliveryStore, self.maildrops))
        self.assertEqual(result(self.maildrops.users()), [b"ann"])
        delivery = result(self.maildrops.open_delivery(b"bob"))
        result(delivery.release())
        self.assertEqual(result(self.maildrops.users()), [b"ann", b"bob"])

    def test_missing_maildrop(self):
        """A path at which nothing is is an empty maildrop, as for any other user."""
        path = os.path.join(os.fsencode(self.root), b"missing")
        self.assertEqual(self.contents(maildrop=path), [])
