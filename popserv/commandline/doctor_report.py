"""What ``popserv doctor`` prints, and its exit code."""

from __future__ import annotations

import json
import sys
from collections import Counter

from popserv.commandline.user_lines import MAX_LINES
from popserv.core.findings import Finding, Severity
from popserv.core.printable import one_line

_NAMES = {
    Severity.ERROR: "errors",
    Severity.WARNING: "warnings",
    Severity.HINT: "hints",
    Severity.UNCHECKED: "unchecked",
}


class Report:
    """Prints findings as they come, at most ``MAX_LINES`` of a kind, or all of them as JSON."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._is_terminal = sys.stderr.isatty()
        self._kinds: Counter[str] = Counter()
        self._severities: Counter[Severity] = Counter()
        self._passed: list[str] = []

    def add(self, finding: Finding) -> None:
        """Print a finding."""
        self._severities[finding.severity] += 1
        self._kinds[finding.code] += 1
        self.progress("")
        if self._as_json:
            values = {**finding._asdict(), "severity": finding.severity.value}
            print(json.dumps(values), flush=True)
        elif self._kinds[finding.code] <= MAX_LINES:
            text = f"{finding.where}: {finding.what}; {finding.remedy} [{finding.code}]"
            print(f"{finding.severity.value}: {one_line(text)}", flush=True)

    def passed(self, check: str) -> None:
        """Note that a check has found nothing."""
        self._passed.append(check)

    def progress(self, text: str) -> None:
        """Show on a terminal how far the command is; nothing removes the line."""
        if self._is_terminal:
            # "Erase in line", ECMA-48.
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()

    def end(self) -> int:
        """Print what is left out and what is right; return the exit code."""
        self.progress("")
        if self._as_json:
            for check in self._passed:
                print(json.dumps({"severity": "ok", "what": check}))
        else:
            for code, count in self._kinds.items():
                if count > MAX_LINES:
                    print(f"and {count - MAX_LINES} more of [{code}]; --json prints all")
            for check in self._passed:
                print(f"ok: {one_line(check)}")
            counts = (f"{name}: {self._severities[each]}" for each, name in _NAMES.items())
            print(", ".join(counts))
        if self._severities[Severity.ERROR]:
            return 2
        return 1 if self._severities[Severity.WARNING] else 0
