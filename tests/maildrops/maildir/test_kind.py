"""Tests of popserv.maildrops.maildir.kind."""

import os
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.maildir import kind
from popserv.maildrops.maildir.hiding import HidingMaildrops
from popserv.maildrops.recent import RecentMaildrops
from popserv.maildrops.settings import StoreSettings
from popserv.messages.downgrade.downgrader import Downgrader

SETTINGS = StoreSettings(cache_messages=7, downgrader=Downgrader, uidl="%f")


class MakeStoreTests(SynchronousTestCase):
    """The store for a path and settings."""

    def test_settings(self):
        """The store has the path, the share of the cache, the downgrader and the format."""
        root = self.mktemp()
        os.makedirs(root)
        for template in (root, f"{root}/%d/%n"):
            with patch.object(kind, "MaildirMaildrops") as store:
                self.assertIs(kind.make_store(template, SETTINGS), store.return_value)
            store.assert_called_once_with(
                template, cache_messages=7, downgrader=Downgrader, uidl="%f", folder="", trash=""
            )

    def test_uidl(self):
        """An invalid format of unique-ids is rejected with the name of its option."""
        settings = StoreSettings(cache_messages=7, uidl="%m")
        error = self.assertRaises(ValueError, kind.make_store, self.mktemp() + "/../%u", settings)
        self.assertIn("--uidl %m: %m: only an mbox file has MD5 sums", str(error))

    def test_folder(self):
        """A folder is a directory in each Maildir; a client may choose another one."""
        root = self.mktemp()
        os.makedirs(root)
        settings = StoreSettings(7, folder="100%.Entwürfe", folder_delimiter="+")
        with patch.object(kind, "MaildirMaildrops") as store:
            kind.make_store(root, settings)
        self.assertEqual(store.call_args.kwargs["folder"], ".100%.Entw&APw-rfe")
        with self.assertRaises(ValueError) as rejected:
            kind.make_store(root, StoreSettings(7, folder="../x"))
        self.assertIn("--folder: '../x' contains a slash", str(rejected.exception))

    def test_deleted(self):
        """Removed messages are moved to a folder of the same Maildir."""
        root = self.mktemp()
        os.makedirs(root)
        for folder in ("INBOX", "Sent"):
            with patch.object(kind, "MaildirMaildrops") as store:
                kind.make_store(root, StoreSettings(7, folder=folder, deleted="move:Trash.a"))
            self.assertEqual(store.call_args.kwargs["trash"], ".Trash.a")
        for deleted, message in (
            ("hide", "--deleted must be remove, keep or move:FOLDER, not 'hide'"),
            ("move", "--deleted must be"),
            ("drop:x", "--deleted must be"),
            ("move:", "--deleted: '' has an empty level"),
            ("move:../x", "--deleted: '../x' contains a slash"),
            ("move:INBOX", "--deleted: 'INBOX' is the inbox"),
            (
                "move:Sent",
                "--deleted: 'Sent' is the inbox or the folder that is served; name another",
            ),
        ):
            with self.assertRaises(ValueError) as rejected:
                kind.make_store(root, StoreSettings(7, folder="Sent", deleted=deleted))
            self.assertIn(message, str(rejected.exception))

    def test_keep(self):
        """Removed messages are kept."""
        root = self.mktemp()
        os.makedirs(root)
        store = kind.make_store(root, StoreSettings(7, deleted="keep"))
        self.assertIsInstance(store, HidingMaildrops)

    def test_since(self):
        """An age hides older messages."""
        root = self.mktemp()
        os.makedirs(root)
        self.assertIsInstance(kind.make_store(root, StoreSettings(7, since=1)), RecentMaildrops)

    def test_invalid(self):
        """An invalid path is rejected with the remedy."""
        maildir = self.mktemp()
        for folder in ("new", "cur"):
            os.makedirs(os.path.join(maildir, folder))
        for argument, message in (
            ("", "give the directory that contains one Maildir for each user"),
            ("/nowhere", "the directory /nowhere does not exist; create it"),
            ("/nowhere/%u", "the directory /nowhere does not exist; create it"),
            (maildir, f"{os.path.abspath(maildir)} is itself a Maildir; give its parent directory"),
            (
                os.path.relpath(__file__),
                f"{os.path.abspath(__file__)} is a file, an mbox perhaps",
            ),
            ("/srv/%x", "%x is not known: use %u, %n, %d"),
            ("/srv/%d", "use %u or %n"),
        ):
            with self.assertRaises(ValueError) as rejected:
                kind.make_store(argument, SETTINGS)
            self.assertIn(message, str(rejected.exception))
