"""Some faults of each scenario, from the same seed each time in CI."""

import os
import random
from itertools import groupby

from twisted.trial.unittest import SynchronousTestCase

from tests.faults.runs import Broken, all_faults, run
from tests.faults.scenarios import SCENARIOS
from tests.faults.shim import KILL
from tests.faults.workshop import BENCHES, Workshop
from tests.live.harness import require_programs, temporary_directory

KILLS = 4
"""The kills in each scenario, each of which takes the time to start a new server."""


class FaultCase(SynchronousTestCase):
    """Tests that load the shim into servers."""

    def setUp(self):
        """Compile the shim, and prepare a process."""
        require_programs(self, "gcc")
        self.workshop = Workshop(temporary_directory(self))
        self.addCleanup(self.workshop.close)


class FaultTests(FaultCase):
    """One fault of each class of system calls, and some kills, in each scenario."""

    def check(self, key):
        """Run the faults of a store; another seed than that of CI finds others."""
        seed = 1725 if "CI" in os.environ else random.SystemRandom().getrandbits(32)
        choose = random.Random(seed)
        bench = self.workshop.bench(key)
        hits = 0
        for name, scenario in SCENARIOS.items():
            if not scenario.fits(bench.kind):
                continue
            every = all_faults(bench, name)
            kills = [fault for fault in every if fault.error == KILL]
            faults = [fault for fault in every if fault.error != KILL]
            chosen = [
                choose.choice([*group])
                for _, group in groupby(faults, key=lambda fault: fault.calls)
            ]
            for fault in (*chosen, *choose.sample(kills, KILLS)):
                try:
                    hits += run(bench, name, fault).hits
                except Broken as error:
                    self.fail(f"make faults FAULTS='--bench {key} --fault {fault}': {error}")
        self.assertGreater(hits, 30)

    def test_maildir(self):
        """No fault in a Maildir loses mail, leaks a lock, or is told to a client."""
        self.check("maildir")

    def test_trash(self):
        """Nor where removed messages are moved to another folder."""
        self.check("trash")

    def test_mbox(self):
        """No fault in an mbox file does."""
        self.check("mbox")

    def test_mh(self):
        """No fault in an MH folder does."""
        self.check("mh")

    def test_benches(self):
        """Each bench has a test."""
        tests = {name.removeprefix("test_") for name in dir(self) if name.startswith("test_")}
        self.assertEqual(tests - {"benches"}, {*BENCHES})
