"""Tests of popserv.options.log."""

import io
import json
import os
from unittest.mock import patch

from twisted.scripts.twistd import ServerOptions

from popserv.listening.listeners import CannotStart
from tests.options.harness import OptionsCase


class LogTests(OptionsCase):
    """Where the log goes, and in which form."""

    def parse_twistd(self, *twistd, format="text"):  # noqa: A002
        """Parse a command line of twistd; return the options of ``pop3``."""
        options = ServerOptions()
        options.parseOptions([*twistd, "pop3", "--maildir", self.root, "--log-format", format])
        return options.subOptions

    def test_log_file(self):
        """The log file is the one that twistd would open."""
        log, absolute = self.mktemp(), os.path.abspath("twistd.log")
        for twistd, path in [
            ([], absolute),
            (["--logfile", log], os.path.abspath(log)),
            (["-n", "--logfile", log], os.path.abspath(log)),
            (["-n"], None),
            (["-n", "--logfile=-"], None),
            (["--syslog"], None),
            (["--logfile", log, "--syslog"], None),
            (["--logfile", log, "--logger=twisted.logger.eventAsText"], None),
        ]:
            log_file = self.parse_twistd(*twistd).open_log_file()
            self.assertEqual(log_file and log_file.path, path, twistd)
            if log_file is not None:
                log_file._file.close()
        self.assertIsNone(self.parse().open_log_file())
        # The option itself would change how this process treats failures.
        options = self.parse_twistd()
        options.parent["debug"] = True
        self.assertIsNone(options.open_log_file())

    def test_standard_output(self):
        """The log goes to standard output where twistd would send it there."""
        for twistd, expected in [
            (["-n"], True),
            (["-n", "--logfile=-"], True),
            (["--logfile=-"], False),
            ([], False),
            (["-n", "--logfile", self.mktemp()], False),
            (["-n", "--syslog"], False),
            (["-n", "--logger=twisted.logger.eventAsText"], False),
        ]:
            output = io.StringIO()
            with patch("sys.stdout", output):
                observer = self.parse_twistd(*twistd).standard_output()
            self.assertEqual(observer is not None, expected, twistd)
            if observer is not None:
                observer({"log_format": "a line"})
                self.assertEqual(output.getvalue(), "- [-#-] a line\n")
        self.assertIsNone(self.parse().standard_output())

    def test_cannot_open_log_file(self):
        """A log file that cannot be opened ends twistd with one line."""
        path = os.path.abspath(os.path.join(self.root, "nosuch", "log"))
        options = self.parse_twistd("--logfile", path)
        error = self.assertRaises(CannotStart, options.open_log_file)
        self.assertEqual(
            str(error), f"popserv: --logfile {path} cannot be opened: No such file or directory"
        )

    def test_formats(self):
        """--log-format is the form of the file and of standard output."""
        log, output = self.mktemp(), io.StringIO()
        in_file = self.parse_twistd("--logfile", log, format="json").open_log_file()
        self.addCleanup(in_file._file.close)
        with patch("sys.stdout", output):
            observer = self.parse_twistd("-n", format="json").standard_output()
        in_file.observer({"log_format": "text"})
        observer({"log_format": "text"})
        with open(log, encoding="ascii") as file:
            self.assertEqual(file.read(), output.getvalue())
        self.assertEqual(json.loads(output.getvalue())["message"], "text")

    def test_wrong_formats(self):
        """An unknown form, or one beside an option of twistd that chooses it, is rejected."""
        self.assert_messages(
            [(["--log-format", "xml"], "--log-format xml: must be one of text, json, journald")]
        )
        for twistd, name in (
            ("--syslog", "syslog"),
            ("--logger=twisted.logger.eventAsText", "logger"),
        ):
            self.parse_twistd(twistd, format="text")
            error = self.assertRaises(SystemExit, self.parse_twistd, twistd, format="json")
            self.assertIn(
                f"--log-format json cannot be combined with twistd's --{name}", error.code
            )
