"""Tests of popserv.maildrops.mh.kind."""

import os
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.mh import kind
from popserv.maildrops.recent import RecentMaildrops
from popserv.maildrops.settings import StoreSettings
from popserv.messages.downgrade.downgrader import Downgrader

SETTINGS = StoreSettings(cache_messages=7, downgrader=Downgrader)


class MakeStoreTests(SynchronousTestCase):
    """The store for a path and settings."""

    def test_settings(self):
        """The store has the path, the share of the cache, and the downgrader."""
        root = self.mktemp()
        os.makedirs(root)
        with patch.object(kind, "MHMaildrops") as store:
            self.assertIs(kind.make_store(f"{root}/%u/inbox", SETTINGS), store.return_value)
        store.assert_called_once_with(f"{root}/%u/inbox", cache_messages=7, downgrader=Downgrader)

    def test_since(self):
        """An age hides older messages."""
        root = self.mktemp()
        os.makedirs(root)
        self.assertIsInstance(kind.make_store(root, StoreSettings(7, since=1)), RecentMaildrops)

    def test_unsupported(self):
        """An option that the store does not support is refused at the start, with its name."""
        root = self.mktemp()
        os.makedirs(root)
        for option, setting in (
            ("--deleted", {"deleted": "keep"}),
            ("--deleted", {"deleted": "move:Trash"}),
            ("--uidl", {"uidl": "dovecot"}),
            ("--folder", {"folder": "Archive"}),
        ):
            with self.assertRaises(ValueError) as rejected:
                kind.make_store(root, StoreSettings(7, **setting))
            text = f"this store does not support {option}; remove {option}"
            self.assertEqual(str(rejected.exception), text)

    def test_invalid(self):
        """An invalid path is rejected with the remedy."""
        for argument, message in (
            ("", "give the path of the folders with a variable, such as /home/%u/Mail/inbox"),
            ("/nowhere/%u", "the directory /nowhere does not exist; create it"),
            ("/srv/%x", "%x is not known: use %u, %n, %d"),
        ):
            with self.assertRaises(ValueError) as rejected:
                kind.make_store(argument, SETTINGS)
            self.assertIn(message, str(rejected.exception))
