"""A short run, and servers with faults, which must be found."""

import csv
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.endurance import report
from tests.endurance.run import OCTETS_PER_MIB, Run
from tests.endurance.trends import Sample, trends
from tests.live.harness import temporary_directory
from tests.soak.model import Fault

COUNTED = {"memory", "descriptors", "threads"}
"""The figures that do not depend on what else runs on the machine."""


def grown(samples):
    """Return the names of the figures that have grown too much."""
    return {each.name for each in trends(samples) if not each.is_allowed}


class LifeTests(SynchronousTestCase):
    """Servers, which clients use while the operator is busy."""

    def setUp(self):
        """Skip the tests without /proc, which tells what a server takes."""
        if not Path("/proc/self/task").exists():
            self.skipTest("/proc is required")

    def live(self, workers, rounds, sessions, broken=""):
        """Return the samples of some rounds with two clients."""
        run = Run(temporary_directory(self), workers, clients=2, broken=broken)
        self.addCleanup(run.close)
        samples = [run.round(sessions) for _ in range(rounds)]
        run.finish()
        return samples

    def test_workers(self):
        """Two workers serve all sessions but those that a kill explains, and nothing grows."""
        samples = self.live(workers=2, rounds=10, sessions=60)
        self.assertEqual(samples[-1].sessions, 1200)
        self.assertEqual(samples[-1].kills, 1)
        self.assertEqual(grown(samples) & COUNTED, set())

    def test_leaks(self):
        """Memory, descriptors and threads that are not released are found."""
        samples = self.live(workers=1, rounds=10, sessions=60, broken="leaks")
        self.assertEqual(grown(samples) & COUNTED, COUNTED)

    def check_fault(self, broken, pattern):
        """Check that a fault ends a run."""
        found = self.assertRaises(Fault, self.live, 2, 10, 60, broken)
        self.assertRegex(str(found), pattern)

    def test_unexplained(self):
        """A session that breaks off while nothing is killed is found."""
        self.check_fault("process-ended", "a session has broken off, and nothing was killed")

    def test_wrong_reply(self):
        """A wrong octet of a message that was delivered is found."""
        self.check_fault("octet-changed", "mail. has .* and not")


class TrendTests(SynchronousTestCase):
    """What has grown."""

    def samples(self, **values):
        """Return 40 samples, in which the figures that are given are those of a function."""
        flat = dict.fromkeys(Sample._fields, 10)
        return [
            Sample(**flat)._replace(**{name: value(n) for name, value in values.items()})
            for n in range(40)
        ]

    def test_flat(self):
        """What stays as it is, becomes less, or is high for a short time, has not grown."""
        self.assertEqual(grown(self.samples()), set())
        self.assertEqual(grown(self.samples(memory=lambda n: 100 - n)), set())
        self.assertEqual(grown(self.samples(descriptors=lambda n: 900 * (n % 10 == 9))), set())

    def test_warm_up(self):
        """What the first rounds take is not looked at."""
        self.assertEqual(grown(self.samples(memory=lambda n: min(n, 8))), set())

    def test_growth(self):
        """What grows in each round, or once for good, has grown."""
        self.assertEqual(grown(self.samples(memory=lambda n: 100 + n / 4)), {"memory"})
        self.assertEqual(grown(self.samples(threads=lambda n: 5 + 5 * (n > 20))), {"threads"})
        self.assertEqual(grown(self.samples(p50=lambda n: 1 + n, p99=lambda n: 9)), {"p50"})

    def test_leak(self):
        """In half a million sessions, one of 14 octets a session is found, and none of 13."""
        for octets, found in ((14, {"memory"}), (13, set())):
            leak = octets * 500_000 / 40 / OCTETS_PER_MIB
            self.assertEqual(grown(self.samples(memory=lambda n, leak=leak: n * leak)), found)


class ReportTests(SynchronousTestCase):
    """The tables."""

    def test_tables(self):
        """The tables have each sample, and what each figure was and has become."""
        samples = TrendTests().samples(memory=lambda n: n)
        folder = temporary_directory(self)
        report.write(folder, {"single": samples}, {"single": trends(samples)})
        text = (folder / "endurance-about.txt").read_text()
        self.assertRegex(
            text, r"\A10 sessions of each server in 40 rounds, 0 minutes, 10 workers .*\n"
        )
        with (folder / "endurance.csv").open(encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        self.assertEqual(header, ["server", *report.TITLES.values()])
        self.assertEqual([len(row) for row in rows], [len(header)] * 40)
        with (folder / "endurance-trends.csv").open(encoding="utf-8") as file:
            memory = list(csv.reader(file))[1]
        row = ["single", "resident memory, MiB", "11.50", "35.50", "4 more"]
        self.assertEqual(memory, row)

    def test_lines(self):
        """A line has a column for each title."""
        (sample, *_) = TrendTests().samples()
        self.assertEqual(len(report.line(sample)), len(report.header()))
