"""Tests of popserv.commandline.session; tests.live runs the command itself."""

import os
from pathlib import Path
from unittest.mock import Mock, patch

from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase

from popserv.commandline import session, session_log
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


class LogTests(SynchronousTestCase):
    """Where the log goes."""

    def test_destination(self):
        """To syslog, if that is asked for or the client would read standard error."""
        root = self.mktemp()
        os.mkdir(root)
        for name in (
            *("StandardStreams", "check_open", "forbid_cores", "import_module"),
            *("use_steady_clock", "warn_about_short_timeout"),
        ):
            self.patch(session, name, Mock())
        for given, is_usable, to_syslog in (
            ([], True, False),
            ([], False, True),
            (["--syslog"], True, True),
            (["--syslog"], False, True),
        ):
            with (
                patch.object(session_log, "is_stderr_usable", return_value=is_usable),
                patch.object(session_log, "start") as start,
                patch.object(session, "SingleSession") as served,
            ):
                code = session.main(["--user", "ann", "--maildir", root, *given])
            self.assertIs(code, served.return_value.run.return_value)
            start.assert_called_once_with(to_syslog=to_syslog, include_info=bool(given))
