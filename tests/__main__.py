"""Run the tests with trial and print a summary: ``python -m tests [NAME ...]``."""

import sys

from twisted.trial.reporter import TreeReporter
from twisted.trial.runner import TestLoader, TrialRunner


class CountingReporter(TreeReporter):
    """A reporter whose last line has the numbers of passed, failed and skipped tests."""

    def done(self):
        """Print the numbers after trial's own summary."""
        super().done()
        failed = len(self.failures) + len(self.errors) + len(self.unexpectedSuccesses)
        print(f"{self.successes} passed, {failed} failed, {len(self.skips)} skipped")


def main():
    """Run the named tests, or all; return the exit code."""
    suite = TestLoader().loadByNames(sys.argv[1:] or ["tests"], recurse=True)
    result = TrialRunner(CountingReporter, workingDirectory="_trial_temp").run(suite)
    return 0 if result.wasSuccessful() and result.testsRun else 1


if __name__ == "__main__":
    sys.exit(main())
