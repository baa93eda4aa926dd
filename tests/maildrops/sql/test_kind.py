"""Tests of popserv.maildrops.sql.kind."""

import os
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops import make_store
from popserv.maildrops.settings import StoreSettings
from popserv.maildrops.sql import kind, store
from popserv.maildrops.sql.objects import ObjectStore
from popserv.messages.downgrade.downgrader import Downgrader
from popserv.runtime.extras import how_to_install

SETTINGS = StoreSettings(cache_messages=7, downgrader=Downgrader, since=5.0)


class MakeStoreTests(SynchronousTestCase):
    """The store for a file and settings."""

    def setUp(self):
        """Write a file."""
        self.path = os.path.abspath(self.mktemp())
        with open(self.path, "w") as file:
            file.write('conninfo = "host=/nowhere"\nlease = 7\npatience = 7\n')
        os.chmod(self.path, 0o600)

    def test_store(self):
        """The store has the database of the file, and the settings; nothing is connected."""
        with patch.object(store, "SQLMaildrops") as maildrops:
            made = kind.make_store(self.path, StoreSettings(7))
        self.assertIs(made, maildrops.return_value)
        [database] = maildrops.call_args.args
        self.assertEqual(database.config.lease, 7)
        settings = {"cache_messages": 7, "downgrader": None, "since": None, "objects": None}
        self.assertEqual(maildrops.call_args.kwargs, settings)
        self.assertEqual(make_store(f"sql:{self.path}", SETTINGS).cache_sizes()["messages"], 0)

    def test_objects(self):
        """The store has the object store of the file; what is wrong with it names the file."""
        with open(self.path, "a") as file:
            file.write('[objects]\nurl = "memory:///"\n')
        with patch.object(store, "SQLMaildrops") as maildrops:
            kind.make_store(self.path, StoreSettings(7))
        self.assertIsInstance(maildrops.call_args.kwargs["objects"], ObjectStore)
        with (
            patch("popserv.maildrops.sql.open_objects.open_objects") as opened,
            patch.object(store, "SQLMaildrops"),
        ):
            kind.make_store(self.path, StoreSettings(7))
        opened.assert_called_once_with("memory:///", {}, 7)
        with open(self.path, "a") as file:
            file.write('region = "x"\n')
        with self.assertRaises(ValueError) as rejected:
            kind.make_store(self.path, StoreSettings(7))
        self.assertIn(f"{self.path}: objects: memory:/// has no options", str(rejected.exception))

    def test_unsupported(self):
        """An option that the store does not support is refused at the start, with its name."""
        for option, setting in (
            ("--deleted", {"deleted": "keep"}),
            ("--uidl", {"uidl": "dovecot"}),
        ):
            with self.assertRaises(ValueError) as rejected:
                make_store(f"sql:{self.path}", StoreSettings(7, **setting))
            text = f"this store does not support {option}; remove {option}"
            self.assertEqual(str(rejected.exception), text)

    def test_invalid(self):
        """A file that cannot be used is refused, with its name."""
        for argument, message in (
            ("", "--store sql requires a file name; use --store sql:FILE"),
            ("/nowhere", "cannot read /nowhere"),
        ):
            with self.assertRaises(ValueError) as rejected:
                make_store(f"sql:{argument}", SETTINGS)
            self.assertIn(message, str(rejected.exception))

    def test_missing_library(self):
        """Without the libraries, the message says how to install them."""
        with (
            patch.dict("sys.modules", {"popserv.database": None}),
            self.assertRaises(ValueError) as rejected,
        ):
            make_store(f"sql:{self.path}", SETTINGS)
        self.assertIn(how_to_install("sql"), str(rejected.exception))
