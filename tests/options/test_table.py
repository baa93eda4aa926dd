"""Tests of popserv.options.table."""

from twisted.trial.unittest import SynchronousTestCase

from popserv.commandline.session import Options as SessionCommandOptions
from popserv.options import table
from popserv.options.server import Options


class HelpTests(SynchronousTestCase):
    """The help texts."""

    def test_sentences(self):
        """Each option has a help text of complete sentences."""
        for options in (Options(), SessionCommandOptions()):
            for name in options.longOpt:
                self.assertRegex(options.docs[name.rstrip("=")], r"\A[A-Z][^\n]*\.\Z", name)

    def test_defaults(self):
        """Each parameter's help text states the default, and Twisted does not append it."""
        for name, _, default, text in table.PARAMETERS:
            self.assertRegex(text, "The default is|One of .* is required", name)
            self.assertIn(default or "", text)
        for options in (Options(), SessionCommandOptions()):
            self.assertNotIn("[default:", options.getUsage())
