"""Tests of popserv.commandline.session_log; tests.live runs the command itself."""

from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from popserv.commandline import session_log


class SyslogObserverTests(SynchronousTestCase):
    """``SyslogObserver``."""

    def test_lines(self):
        """Only the first line of an event begins like one, whatever ends its lines."""
        with patch.object(session_log, "syslog") as syslog:
            session_log.SyslogObserver()(
                {"log_format": "{text}", "text": "a\nb\r\nc\rd\u2028e\x85f\0g", "log_system": "-"}
            )
        sent = [call.args[1] for call in syslog.syslog.call_args_list]
        self.assertEqual(sent, ["a", "\tb", "\tc", "\td", "\te", "\tf\\0g"])


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
