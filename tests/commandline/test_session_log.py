"""Tests of popserv.commandline.session_log; tests.live runs the command itself."""

from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from popserv.commandline import session_log


class ReportErrorTests(SynchronousTestCase):
    """``report_error``."""

    def test_syslog(self):
        """An error goes to syslog if the client would read standard error."""
        with (
            patch.object(session_log, "is_client_stream", return_value=True),
            patch.object(session_log.os, "isatty", return_value=False),
            patch.object(session_log, "syslog") as syslog,
        ):
            session_log.report_error("no")
        self.assertEqual(syslog.syslog.call_args.args[1], "no")
