"""What of popserv session needs a fault to be seen; tests/live runs the command itself."""

from unittest.mock import Mock, patch

from twisted.trial.unittest import SynchronousTestCase

from popserv import session_command, session_log
from popserv.session_command import OneSession, Options
from popserv.session_options import SessionOptions


class SessionCommandTests(SynchronousTestCase):
    """The command's edges."""

    def test_usage(self):
        """--help ends with examples and exit codes."""
        self.assertIn("Exit codes: 0 after QUIT", Options().getUsage())

    def test_logins(self):
        """Sessions have logins unless said otherwise, and no TLS without STLS."""
        self.assertTrue(SessionOptions().takes_logins())
        self.assertFalse(SessionOptions().has_tls_from_the_start())

    def test_complaint_to_syslog(self):
        """A wrong command line is told to syslog where the client would read standard error."""
        with (
            patch.object(session_log, "leads_to_client", return_value=True),
            patch.object(session_log.os, "isatty", return_value=False),
            patch.object(session_log, "syslog") as syslog,
        ):
            session_log.complain("no")
        self.assertEqual(syslog.syslog.call_args.args[1], "no")

    def test_gone(self):
        """A client that has gone before the session begins ends it, with a line in the log."""
        session = OneSession.__new__(OneSession)
        session._standard, session._factory, session._reactor = Mock(), None, Mock()
        session._server = None
        session._standard.connect.side_effect = OSError(107, "not connected")
        with patch.object(session_command, "_log") as log:
            session._begin()
        self.assertEqual(len(log.warn.mock_calls), 1)
        session._standard.give_back.assert_called_once_with()
        session._reactor.stop.assert_called_once_with()
        # A signal then has nothing to break off.
        session._abort()
