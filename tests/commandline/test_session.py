"""Tests of popserv.commandline.session; tests.live runs the command itself."""

import os
from pathlib import Path

from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase

from popserv.commandline.session import Options
from tests.certificates import issue


class OptionsTests(SynchronousTestCase):
    """The options of ``popserv session``."""

    def test_help(self):
        """The help text contains the exit codes."""
        self.assertIn("Exit codes: 0 after QUIT", Options().getUsage())

    def test_no_stls(self):
        """--require-tls cannot be combined with --without STLS, because no port starts TLS."""
        root = self.mktemp()
        os.mkdir(root)
        pem = self.mktemp()
        Path(pem).write_bytes(issue("localhost").pem())
        words = f"--login --maildir {root} --certificate {pem} --require-tls --without STLS".split()
        error = self.assertRaises(usage.UsageError, Options().parseOptions, words)
        self.assertEqual(
            str(error),
            "--require-tls and --without STLS cannot be combined, because no client could start "
            "TLS; remove one of them",
        )
