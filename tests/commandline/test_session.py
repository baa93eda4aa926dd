"""What of popserv session needs a fault to be seen; tests/live runs the command itself."""

import os
import signal
from pathlib import Path
from unittest.mock import Mock, patch

from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase

from popserv.commandline import session as session_command
from popserv.commandline import session_log
from popserv.commandline.session import OneSession, Options
from tests.certificates import issue


class SessionCommandTests(SynchronousTestCase):
    """The command's edges."""

    def test_usage(self):
        """--help ends with examples and exit codes."""
        self.assertIn("Exit codes: 0 after QUIT", Options().getUsage())

    def test_no_stls(self):
        """Where TLS can begin by STLS alone, that cannot be needed and left out."""
        root = self.mktemp()
        os.mkdir(root)
        pem = self.mktemp()
        Path(pem).write_bytes(issue("localhost").pem())
        words = f"--login --maildir {root} --certificate {pem} --require-tls --without STLS".split()
        error = self.assertRaises(usage.UsageError, Options().parseOptions, words)
        self.assertEqual(str(error), "--require-tls and --without STLS: nobody could log in")

    def test_complaint_to_syslog(self):
        """A wrong command line is told to syslog where the client would read standard error."""
        with (
            patch.object(session_log, "is_client_stream", return_value=True),
            patch.object(session_log.os, "isatty", return_value=False),
            patch.object(session_log, "syslog") as syslog,
        ):
            session_log.complain("no")
        self.assertEqual(syslog.syslog.call_args.args[1], "no")

    def test_gone(self):
        """A client that has gone before the session begins ends it, with a line in the log."""
        root = self.mktemp()
        os.mkdir(root)
        options = Options()
        options.parseOptions(["--user", "ann", "--maildir", root])
        standard, reactor = Mock(), Mock()
        standard.connect.side_effect = OSError(107, "not connected")
        reactor.callWhenRunning = reactor.callFromThread = lambda function: function()
        # A signal finds nothing to break off then.
        reactor.run = lambda **_: os.kill(os.getpid(), signal.SIGHUP)
        with patch.object(session_command, "_log") as log:
            self.assertEqual(OneSession(options, standard, reactor).run(), 1)
        self.assertEqual(len(log.warn.mock_calls), 1)
        standard.restore.assert_called_once_with()
        reactor.stop.assert_called_once_with()
