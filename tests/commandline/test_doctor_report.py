"""Tests of popserv.commandline.doctor_report."""

import io
import json
import sys
from contextlib import redirect_stdout

from twisted.trial.unittest import SynchronousTestCase

from popserv.commandline.doctor_report import Report
from popserv.commandline.user_lines import MAX_LINES
from popserv.core.findings import error, hint, unchecked, warning


class ReportTests(SynchronousTestCase):
    """What is printed."""

    def report(self, *findings, passed=(), as_json=False):
        """Return the exit code and the lines."""
        out = io.StringIO()
        with redirect_stdout(out):
            report = Report(as_json=as_json)
            for finding in findings:
                report.add(finding)
            for check in passed:
                report.passed(check)
            code = report.end()
        return code, out.getvalue().splitlines()

    def test_text(self):
        """A line for each finding, one for each check that has found nothing, and the numbers."""
        code, lines = self.report(error("c", "file", "a\nb", "do it"), passed=["ports"])
        self.assertEqual(code, 2)
        self.assertEqual(
            lines,
            [
                r"error: file: a\nb; do it [c]",
                "ok: ports",
                "errors: 1, warnings: 0, hints: 0, unchecked: 0",
            ],
        )

    def test_codes(self):
        """The exit code is that of the worst finding."""
        for findings, code in (
            ([], 0),
            ([hint("c", "x", "x", "x"), unchecked("c", "x", "x", "x")], 0),
            ([hint("c", "x", "x", "x"), warning("c", "x", "x", "x")], 1),
            ([error("c", "x", "x", "x"), warning("c", "x", "x", "x")], 2),
        ):
            self.assertEqual(self.report(*findings)[0], code)

    def test_json(self):
        """With JSON, each line is an object, whatever is in it."""
        code, lines = self.report(warning("c", "f", "a\nb", "r"), passed=["ports"], as_json=True)
        self.assertEqual(code, 1)
        self.assertEqual(
            [json.loads(line) for line in lines],
            [
                {"severity": "warning", "code": "c", "where": "f", "what": "a\nb", "remedy": "r"},
                {"severity": "ok", "what": "ports"},
            ],
        )

    def test_many(self):
        """Of one kind, some are printed, and all as JSON."""
        findings = [hint("c", str(number), "x", "x") for number in range(MAX_LINES + 3)]
        _, lines = self.report(*findings)
        self.assertEqual(len(lines), MAX_LINES + 2)
        self.assertEqual(lines[-2], "and 3 more of [c]; --json prints all")
        _, lines = self.report(*findings, as_json=True)
        self.assertEqual(len(lines), MAX_LINES + 3)

    def test_progress(self):
        """Progress is shown on a terminal only, and removed before a line."""

        class Terminal(io.StringIO):
            def isatty(self):
                return True

        for stream, expected in ((Terminal(), "\r\x1b[K1 of 2\r\x1b[K"), (io.StringIO(), "")):
            self.patch(sys, "stderr", stream)
            report = Report(as_json=True)
            report.progress("1 of 2")
            with redirect_stdout(io.StringIO()):
                report.add(hint("c", "x", "x", "x"))
            self.assertEqual(stream.getvalue(), expected)
