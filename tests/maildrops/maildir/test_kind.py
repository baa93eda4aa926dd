"""Tests of popserv.maildrops.maildir.kind."""

import os
from dataclasses import dataclass, field
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.maildir import kind
from popserv.maildrops.settings import StoreSettings
from popserv.messages.downgrade.downgrader import Downgrader

SETTINGS = StoreSettings(cache_messages=7, downgrader=Downgrader, uidl="%f")


@dataclass(frozen=True)
class OtherSettings(StoreSettings):
    """Settings with one that no store knows."""

    other: bool = field(default=False, metadata={"option": "--other"})


class MakeStoreTests(SynchronousTestCase):
    """The store for a path and settings."""

    def test_store(self):
        """The store has the path and the settings."""
        root = self.mktemp()
        os.makedirs(root)
        for template in (root, f"{root}/%d/%n"):
            with patch.object(kind, "ConfiguredMaildirs") as store:
                self.assertIs(kind.make_store(template, SETTINGS), store.return_value)
            store.assert_called_once_with(template, SETTINGS)

    def test_unsupported(self):
        """All options are supported; one that the store does not know would be refused."""
        root = self.mktemp()
        os.makedirs(root)
        with self.assertRaises(ValueError) as rejected:
            kind.make_store(root, OtherSettings(7, other=True))
        text = "this store does not support --other; remove --other"
        self.assertEqual(str(rejected.exception), text)

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
