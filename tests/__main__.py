"""Run the tests with trial and print a summary: ``python -m tests [NAME ...]``.

Without names, all tests run: those of tests.live, which mostly wait for other programs, in a second
process at the same time.
"""

import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryFile

from twisted.trial.reporter import TreeReporter
from twisted.trial.runner import TestLoader, TrialRunner

LIVE = "tests.live"


class CountingReporter(TreeReporter):
    """A reporter whose last line has the numbers of passed, failed and skipped tests."""

    def counts(self):
        """Return the numbers of passed, failed and skipped tests."""
        failed = len(self.failures) + len(self.errors) + len(self.unexpectedSuccesses)
        return self.successes, failed, len(self.skips)

    def done(self):
        """Print the numbers after trial's own summary."""
        super().done()
        print_counts(self.counts())


def print_counts(counts):
    """Print the numbers of passed, failed and skipped tests."""
    print("{} passed, {} failed, {} skipped".format(*counts), flush=True)


def run(names):
    """Run the named tests in this process; return whether they passed, and the numbers."""
    suite = TestLoader().loadByNames(names, recurse=True)
    result = TrialRunner(CountingReporter, workingDirectory="_trial_temp").run(suite)
    return result.wasSuccessful() and result.testsRun > 0, result.counts()


def run_all():
    """Run all tests in two processes; print the output of the second one after that of the first.

    Return whether they passed.
    """
    here = Path(__file__).parent
    names = sorted(
        f"tests.{path.stem}"
        for path in here.iterdir()
        if path.name.startswith("test_") or (path / "__init__.py").exists()
    )
    names.remove(LIVE)
    with TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        with subprocess.Popen(
            [*sys.orig_argv, LIVE], stdout=output, stderr=subprocess.STDOUT
        ) as live:
            try:
                passed, counts = run(names)
            except BaseException:
                live.kill()
                raise
            print(f"waiting for {LIVE}", flush=True)
        output.seek(0)
        text = output.read()
    sys.stdout.write(text)
    lines = re.findall(r"^(\d+) passed, (\d+) failed, (\d+) skipped$", text, re.MULTILINE)
    for line in lines[-1:]:
        counts = [a + int(b) for a, b in zip(counts, line, strict=True)]
    print_counts(counts)
    return passed and live.returncode == 0


def main():
    """Run the named tests, or all; return the exit code."""
    names = sys.argv[1:]
    passed = run(names)[0] if names else run_all()
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
