"""Tests of popserv.options.store."""

import io
import os
from contextlib import redirect_stdout
from dataclasses import replace
from unittest.mock import patch

from twisted.plugin import IPlugin
from twisted.python import usage
from zope.interface import implementer

from popserv import tap
from popserv.auth.passwords.users_file import default_path
from popserv.commandline import session
from popserv.commandline.single_session import SingleSession
from popserv.interfaces import IStoreKind
from popserv.maildrops import kinds
from popserv.maildrops.maildir.configured import ConfiguredMaildirs
from popserv.maildrops.memory import MemoryMaildrops
from popserv.maildrops.owners.store import OwnersStore
from popserv.maildrops.settings import StoreSettings
from popserv.messages.downgrade.downgrader import Downgrader
from popserv.options.server import Options
from popserv.wiring import factories
from popserv.wiring.privileges import OwnersService
from tests.options.harness import OptionsCase


@implementer(IStoreKind, IPlugin)
class OtherKind:
    """A kind that records its arguments."""

    kind = "other"
    argument = "NUMBER"
    help = "A store of a test, which has a description of more than one line in a list of kinds."

    def __init__(self):
        self.calls = []

    def make_store(self, argument, settings):
        """Return a store in memory for a number."""
        if not argument.isdigit():
            raise ValueError("the argument is a number, such as 7")
        self.calls.append((argument, settings))
        return MemoryMaildrops(settings.downgrader)


class StoreCase(OptionsCase):
    """Tests with a plugin beside those of popserv."""

    auth = ("--auth", "memory:ann:secret")

    def setUp(self):
        """Let Twisted find the plugin."""
        super().setUp()
        self.other = OtherKind()
        self.patch(kinds, "getPlugins", lambda _: iter([self.other]))

    def parse_alone(self, *arguments, options=Options):
        """Parse arguments without a --maildir; return the options."""
        parsed = options()
        parsed.parseOptions(arguments)
        return parsed

    def assert_rejected(self, message, *arguments, options=Options):
        """Check that arguments without a --maildir are rejected with one line."""
        error = self.assertRaises(usage.UsageError, self.parse_alone, *arguments, options=options)
        self.assertIn(message, str(error))
        self.assertNotIn("\n", str(error))


class StoreOptionsTests(StoreCase):
    """``--store`` and its short forms."""

    def test_maildir(self):
        """--maildir X is the short form of --store maildir:X."""
        for arguments in (("--maildir", self.root), ("--store", f"maildir:{self.root}")):
            options = self.parse_alone(*arguments)
            self.assertIsInstance(options.store, OwnersStore)
            self.assertIsInstance(options.store._store, ConfiguredMaildirs)
            self.assertEqual(
                options.default_auth(),
                ("passwd-file", default_path(os.path.abspath(self.root))),
            )
            self.assertEqual(len(options["credCheckers"]), 1)

    def test_settings(self):
        """A store is told its share of the cache, the number of processes, and the downgrader."""
        for arguments, settings in (
            ((), StoreSettings(500_000)),
            (("--cache-messages=0",), StoreSettings(0)),
            (("--workers=3", "--cache-messages=10"), StoreSettings(3, processes=3)),
            (("--utf8",), StoreSettings(500_000, downgrader=Downgrader)),
            (("--folder=Archive",), StoreSettings(500_000, folder="Archive")),
            (("--folder-delimiter=+",), StoreSettings(500_000, folder_delimiter="+")),
            (("--deleted=move:Trash",), StoreSettings(500_000, deleted="move:Trash")),
            (("--since=2h",), StoreSettings(500_000, since=7200)),
            (("--since=30d",), StoreSettings(500_000, since=30 * 86400)),
        ):
            self.parse_alone("--store", "other:7", *self.auth, *arguments)
            self.assertEqual(self.other.calls.pop(), ("7", replace(settings, as_owners=True)))
        self.assertEqual(self.other.calls, [])

    def test_as_owners(self):
        """--as-owners requires a store whose maildrops have owners."""
        message = "--as-owners requires a store of files: --maildir, --mbox or --store mh:PATH"
        self.assert_rejected(message, "--store", "other:7", *self.auth, "--as-owners")
        options = self.parse("--as-owners")
        self.assertIsInstance(tap.makeService(options), OwnersService)
        self.assertNotIsInstance(tap.makeService(self.parse()), OwnersService)

    def test_used(self):
        """The server and ``popserv session`` open maildrops of the store."""
        options = self.parse_alone("--store", "other:7", *self.auth)
        with patch.object(factories, "MaildropRealm") as realm:
            tap.makeService(options)
        realm.assert_called_once_with(options.store)
        options = self.parse_alone("--store=other:7", "--user=ann", options=session.Options)
        self.assertEqual(self.other.calls[-1], ("7", StoreSettings(500_000, as_owners=True)))
        path = "popserv.commandline.single_session.MaildropRealm"
        with patch(path) as realm:
            SingleSession(options, None, None)
        realm.assert_called_once_with(options.store)

    def test_rejected(self):
        """An unknown kind, an invalid argument and two stores are rejected with the remedy."""
        for message, arguments in (
            ("--maildir is required", ()),
            ("or another store with --mbox or --store", ("--store=",)),
            (
                "--store and --maildir cannot be combined, because each names a store; remove one",
                ("--maildir", self.root, "--store", "other:7"),
            ),
            ("--store nosuch: there is no such kind of store; use one of ", ("--store=nosuch:/x",)),
            ("--store other: the argument is missing; write other:NUMBER", ("--store=other",)),
            ("--store other: the argument is a number, such as 7", ("--store=other:secret",)),
            ("--store maildir: the directory /nowhere does not", ("--store=maildir:/nowhere",)),
            ("--maildir /nowhere: the directory /nowhere does not", ("--maildir=/nowhere",)),
        ):
            for options, more in ((Options, ()), (session.Options, ("--user=ann",))):
                self.assert_rejected(message, *arguments, *more, options=options)

    def test_no_secrets(self):
        """A message does not quote the argument, which may contain a password."""
        error = self.assertRaises(usage.UsageError, self.parse_alone, "--store=other:secret")
        self.assertNotIn("secret", str(error))

    def test_users_file(self):
        """A store that has no default users file requires --auth, unless no client logs in."""
        for options, more in ((Options, ()), (session.Options, ("--login",))):
            self.assert_rejected(
                "--store other requires --auth, such as --auth passwd-file:/etc/popserv/users, "
                "because only Maildirs have a default users file",
                *("--store=other:7", *more),
                options=options,
            )
        options = self.parse_alone("--store=other:7", "--preauth=unix:/x")
        self.assertNotIn("credCheckers", options)

    def test_help_stores(self):
        """--help-stores lists the kinds, each with its argument and its description."""
        for options in (Options, session.Options):
            with redirect_stdout(io.StringIO()) as out:
                error = self.assertRaises(
                    SystemExit, self.parse_alone, "--help-stores", options=options
                )
            self.assertEqual(error.code, 0)
            text = out.getvalue()
            self.assertIn("  maildir:PATH\n      Maildirs, in a directory ", text)
            self.assertTrue(
                text.endswith(
                    "  other:NUMBER\n      A store of a test, which has a description of more than "
                    "one line in a list\n      of kinds.\n"
                ),
                text,
            )
