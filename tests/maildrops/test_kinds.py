"""Tests of popserv.maildrops.kinds, and of twisted/plugins/popserv_stores.py."""

import os
import subprocess
import sys
from unittest.mock import patch

from twisted.plugin import IPlugin
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from popserv.interfaces import IMaildropFactory, IStoreKind
from popserv.maildrops import StoreSettings, kinds, make_store
from popserv.maildrops.maildir.configured import ConfiguredMaildirs
from popserv.maildrops.memory import MemoryMaildrops
from twisted.plugins import popserv_stores

SETTINGS = StoreSettings(cache_messages=0)


@implementer(IStoreKind, IPlugin)
class FakeKind:
    """A kind whose function is given."""

    argument = "PLACE"
    help = "A store of a test."

    def __init__(self, kind, function):
        self.kind = kind
        self.make_store = function


class KindsCase(SynchronousTestCase):
    """Tests with plugins beside those of popserv."""

    def add_kinds(self, *plugins):
        """Let Twisted find these plugins; return the list of interfaces that are searched for."""
        searched = []

        def get_plugins(interface):
            searched.append(interface)
            return iter((popserv_stores.maildir, *plugins))

        self.patch(kinds, "getPlugins", get_plugins)
        return searched


class StoreKindsTests(KindsCase):
    """The kinds of stores."""

    def test_interfaces(self):
        """Each kind is a plugin that provides the interface."""
        for kind in kinds.store_kinds():
            self.assertTrue(verifyObject(IStoreKind, kind), kind)
            self.assertTrue(verifyObject(IPlugin, kind), kind)

    def test_own_kinds(self):
        """The kinds of popserv come first, each once, and no plugin replaces one of them."""
        other = FakeKind("maildir", None)
        self.add_kinds(other, FakeKind("other", None))
        found = list(kinds.store_kinds())
        self.assertIs(found[0], popserv_stores.maildir)
        self.assertNotIn(other, found)
        self.assertEqual(found[-1].kind, "other")

    def test_found_by_twisted(self):
        """Twisted finds the kinds, and imports no store to list them."""
        program = (
            "import sys; from twisted.plugin import getPlugins;"
            "from popserv.interfaces import IStoreKind;"
            "assert 'maildir' in [kind.kind for kind in getPlugins(IStoreKind)];"
            "assert not [name for name in sys.modules if name.startswith('popserv.maildrops')]"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, check=False
        )
        self.assertEqual((done.returncode, done.stderr), (0, b""))


class MakeStoreTests(KindsCase):
    """Stores that are made by name."""

    def refusal(self, description):
        """Return the message with which a description is rejected."""
        with self.assertRaises(ValueError) as rejected:
            make_store(description, SETTINGS)
        return str(rejected.exception)

    def test_maildir(self):
        """A kind of popserv is made without a search for plugins."""
        searched = self.add_kinds()
        store = make_store(f"maildir:{os.getcwd()}", SETTINGS)
        self.assertIsInstance(store, ConfiguredMaildirs)
        self.assertEqual(searched, [])

    def test_plugin(self):
        """A kind of a plugin gets everything after the first colon, and the settings."""
        given, store = [], MemoryMaildrops()

        def make(*arguments):
            given.append(arguments)
            return store

        self.add_kinds(FakeKind("other", make))
        for argument in ("", "a:b", "//x"):
            made = make_store(f"other:{argument}", SETTINGS)
            self.assertTrue(verifyObject(IMaildropFactory, made))
            self.assertIs(made, store)
            self.assertEqual(given.pop(), (argument, SETTINGS))

    def test_unknown(self):
        """An unknown kind is rejected with the names of those that there are."""
        self.add_kinds(FakeKind("zz", None), FakeKind("aa", None))
        for description in ("nosuch:x", "nosuch", "", ":x", "Maildir:x", "zz "):
            message = self.refusal(description)
            self.assertTrue(message.startswith("there is no such kind of store; use one of aa, "))
            self.assertTrue(message.endswith(", zz"))
            self.assertIn("maildir", message)

    def test_no_argument(self):
        """A kind without a colon is rejected with the form of its argument."""
        self.add_kinds(FakeKind("other", None))
        self.assertEqual(self.refusal("other"), "the argument is missing; write other:PLACE")

    def test_cannot_be_made(self):
        """A missing file or library is an error of the argument, a mistake of the plugin is not."""
        for error, message in (
            (ValueError("no colon"), "no colon"),
            (ModuleNotFoundError("No module named 'x'"), "No module named 'x'"),
            (FileNotFoundError(2, "No such file", "/x"), "/x: No such file"),
            (OSError("no server"), "no server"),
        ):
            with patch.object(popserv_stores._MaildirKind, "make_store", side_effect=error):
                self.assertEqual(self.refusal("maildir:x"), message)
        with patch.object(popserv_stores._MaildirKind, "make_store", side_effect=KeyError("x")):
            self.assertRaises(KeyError, make_store, "maildir:x", SETTINGS)

    def test_no_store(self):
        """A plugin that returns something else than a store is an error that names the plugin."""
        for wrong in (None, object(), MemoryMaildrops):
            self.add_kinds(FakeKind("other", lambda *arguments, wrong=wrong: wrong))
            self.assertEqual(
                self.refusal("other:x"),
                f"the plugin {__name__} has returned {wrong!r}, which does not provide "
                "IMaildropFactory; correct the plugin",
            )
