"""What shells complete after the options."""

import io

from twisted.cred.strcred import ICheckerFactory
from twisted.python import usage
from twisted.python._shellcomp import ZshArgumentsGenerator
from twisted.trial.unittest import SynchronousTestCase

from popserv.commandline import session
from popserv.interfaces import IStoreKind
from popserv.options.completions import CHECKERS, STORES, CompletePrefixed
from popserv.options.kinds import FLAG, REPEATABLE, option_kinds
from popserv.options.server import Options
from twisted.plugins import popserv_plugin, popserv_stores


class CompletionsTests(SynchronousTestCase):
    """The data that Twisted passes on to zsh."""

    def test_options(self):
        """What each option with a value is followed by is said, and which may be repeated."""
        for options in (Options(), session.Options()):
            found = ZshArgumentsGenerator(options, "x", io.BytesIO())
            self.assertEqual(set(found.optActions), set(found.paramNameToDefinition))
            kinds = option_kinds(options)
            repeatable = {name for name, kind in kinds.items() if kind is REPEATABLE}
            self.assertEqual(found.multiUse - {"control"}, repeatable - {"control"})
            flags = {name for name, kind in kinds.items() if kind is FLAG}
            self.assertTrue(flags.isdisjoint(found.optActions))

    def test_plugins(self):
        """The checkers and stores are those of popserv's plugins."""
        checkers = filter(ICheckerFactory.providedBy, vars(popserv_plugin).values())
        self.assertEqual({each.authType for each in checkers}, set(CHECKERS))
        stores = filter(IStoreKind.providedBy, vars(popserv_stores).values())
        self.assertEqual({each.kind for each in stores}, set(STORES))

    def test_prefixed(self):
        """After one of the words and a colon, zsh completes files; colons are escaped."""
        completer = CompletePrefixed(["a", "b"], "what")
        self.assertEqual(
            completer._shellCode("x", usage._ZSH),
            r":what:{ if compset -P '*\:'; then _files; else compadd -S '' a\: b\:; fi }",
        )
