"""Tests of popserv.commandline.user_lines; those of the commands have more."""

import io
import sys

from twisted.trial.unittest import SynchronousTestCase

from popserv.commandline.user_lines import Progress
from tests.commandline.test_user import FakeTerminal


class ProgressTests(SynchronousTestCase):
    """The line that says how far the command is."""

    def written(self, stream):
        """Return what is written to a standard error."""
        self.patch(sys, "stderr", stream)
        progress = Progress(12)
        progress.show(b"a\x1bn", 2, "message 3")
        progress.clear()
        return stream.getvalue()

    def test_terminal(self):
        """On a terminal, the line is replaced by the next one."""
        expected = "\r\x1b[K3 of 12: a\\x1bn, message 3\r\x1b[K"
        self.assertEqual(self.written(FakeTerminal()), expected)

    def test_file(self):
        """Into a file, nothing is written."""
        self.assertEqual(self.written(io.StringIO()), "")
