"""Run the tests with trial and print a summary: ``python -m tests [NAME ...]``.

Without names, all tests run, divided among several processes.
"""

import os
import sys

from twisted.trial.reporter import TreeReporter
from twisted.trial.runner import TestLoader, TrialRunner

from tests.schedule import ALL_SKIPPED, all_parts, print_counts, run_parts

PROCESSES = 2 * (os.cpu_count() or 1)
"""How many run at the same time: more than processors, as many tests wait for other programs."""


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


def run(names):
    """Run the named tests in this process; return the exit code."""
    suite = TestLoader().loadByNames(names, recurse=True)
    result = TrialRunner(CountingReporter, workingDirectory="_trial_temp").run(suite)
    if not result.wasSuccessful() or not result.testsRun:
        return 1
    if not result.successes:
        print("every test was skipped, which shows nothing", file=sys.stderr)
        return ALL_SKIPPED
    return 0


def main():
    """Run the named tests, or all; return the exit code."""
    names = sys.argv[1:]
    if names:
        return run(names)
    return 0 if run_parts(sys.orig_argv, all_parts(), PROCESSES) else 1


if __name__ == "__main__":
    sys.exit(main())
