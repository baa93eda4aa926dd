"""Tests of popserv.commandline.session_log; tests.live runs the command itself."""

import io
from contextlib import redirect_stderr, redirect_stdout
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

    def test_octets(self):
        """Octets of a file name that are not UTF-8, which syslog could not send, are escaped."""
        with patch.object(session_log.syslog, "syslog") as send:
            send.side_effect = lambda priority, line: line.encode()
            session_log.SyslogObserver()({"log_format": "{path}: no", "path": "/srv/\udcff\xe9"})
        self.assertEqual(send.call_args.args[1], "/srv/\\udcff\xe9: no")


class ReportErrorTests(SynchronousTestCase):
    """``report_error``."""

    def test_streams(self):
        """An error goes to syslog if the client would read standard error, but for a terminal."""
        for is_client, is_terminal, is_sent in (
            (True, False, True),
            (True, True, False),
            (False, False, False),
            (False, True, False),
        ):
            err = io.StringIO()
            with (
                patch.object(session_log, "is_client_stream", return_value=is_client) as asked,
                patch.object(session_log.os, "isatty", return_value=is_terminal) as isatty,
                patch.object(session_log, "syslog") as syslog,
                redirect_stderr(err),
            ):
                session_log.report_error("no")
                self.assertIs(session_log.is_stderr_usable(), not is_client)
            self.assertEqual(asked.call_args.args, (2, 0, 1))
            isatty.assert_called_once_with(2)
            sent = [call.args[1] for call in syslog.syslog.call_args_list]
            self.assertEqual(sent, ["no"] if is_sent else [])
            self.assertEqual(err.getvalue(), "" if is_sent else "popserv session: no\n")

    def test_closed(self):
        """Without standard error, an error goes to syslog, and the client does not read it."""
        out = io.StringIO()
        with (
            patch.object(session_log.sys, "stderr", None),
            # Another file has the descriptor.
            patch.object(session_log, "is_client_stream", return_value=False),
            patch.object(session_log.os, "isatty", return_value=True),
            patch.object(session_log, "syslog") as syslog,
            redirect_stdout(out),
        ):
            session_log.report_error("no")
            self.assertFalse(session_log.is_stderr_usable())
        self.assertEqual((syslog.syslog.call_args.args[1], out.getvalue()), ("no", ""))
