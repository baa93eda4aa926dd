"""Some faults of each scenario, from the same seed each time in CI, and power losses."""

import os
import random
import re
import signal
import subprocess
from itertools import groupby

from twisted.trial.unittest import SynchronousTestCase

from tests.faults.base import Broken
from tests.faults.bench import Bench
from tests.faults.patches import PATCHES
from tests.faults.runs import all_faults, count_calls, lose_power, run
from tests.faults.scenarios import SCENARIOS, scenarios_of
from tests.faults.shim import KILL, SHORT, Fault, replaced
from tests.faults.workshop import BENCHES, Workshop
from tests.live.harness import require_programs, temporary_directory
from tests.live.postgresql import program

KILLS = 3
"""The kills in each scenario, each of which takes the time to start a new server."""

LOSSES = 12
"""The power losses in each scenario."""

FEW = 5
"""The faults, and the power losses, of a command, each of which takes several processes."""


def some_faults(choose, key, name, every):
    """Return some of the faults of a scenario."""
    if key == "sql":
        # Otherwise a lease must expire, or a statement be given up, each time.
        every = [fault for fault in every if not fault.lasts and fault.error != KILL]
    if key == "sql" or SCENARIOS[name].is_command:
        return choose.sample(every, FEW)
    faults = [fault for fault in every if fault.error != KILL]
    kills = [fault for fault in every if fault.error == KILL]
    return [
        *(choose.choice([*group]) for _, group in groupby(faults, key=lambda fault: fault.calls)),
        *choose.sample(kills, min(KILLS, len(kills))),
    ]


PATCHED = (
    ("maildir_folders", "maildir", "second"),
    ("maildir_deliveries", "maildir", "delivery"),
    ("mbox_copies", "mbox", "second"),
    ("mh_folders", "mh", "second"),
    ("mh_deliveries", "mh", "delivery"),
    ("mh_names", "mh", "delivery"),
    ("users_files", "maildir", "user-add"),
    ("objects", "sql", "object-delivery"),
)
"""What does not sync, with a bench and a scenario in which that loses something."""


class FaultCase(SynchronousTestCase):
    """Tests that load the shim into servers."""

    def setUp(self):
        """Compile the shim, and prepare a process."""
        require_programs(self, "gcc")
        self.workshop = Workshop(temporary_directory(self))
        self.addCleanup(self.workshop.close)


class FaultTests(FaultCase):
    """One fault of each class of system calls, and some kills, in each scenario of a server."""

    def check(self, key):
        """Run the faults of a store; another seed than that of CI finds others."""
        seed = 1725 if "CI" in os.environ else random.SystemRandom().getrandbits(32)
        choose = random.Random(seed)
        bench = self.workshop.bench(key)
        hits = runs = 0
        for name in scenarios_of(key):
            for fault in some_faults(choose, key, name, all_faults(bench, name)):
                runs += 1
                try:
                    hits += run(bench, name, fault).hits > 0
                except Broken as error:
                    self.fail(f"{error}\nmake faults FAULTS='--bench {key} --fault {fault}'")
        self.assertGreater(hits, runs // 2)

    def test_maildir(self):
        """No fault in a Maildir loses mail, leaks a lock, or is told to a client."""
        self.check("maildir")

    def test_trash(self):
        """No fault does harm where removed messages are moved to another folder."""
        self.check("trash")

    def test_keep(self):
        """No fault does harm where removed messages stay for other programs."""
        self.check("keep")

    def test_dovecot(self):
        """Nor where Dovecot's list has the unique-ids."""
        self.check("dovecot")

    def test_mbox(self):
        """No fault in an mbox file does."""
        self.check("mbox")

    def test_mh(self):
        """No fault in an MH folder does."""
        self.check("mh")

    def test_sql(self):
        """Nor does one on the sockets of a database, or of an object."""
        if not program("initdb"):
            require_programs(self, "initdb")
        self.check("sql")

    def test_short_reads(self):
        """Sizes are right whichever read returns less than there is."""
        bench = self.workshop.bench("maildir")
        for number in range(1, count_calls(bench, "first")["read"] + 1):
            run(bench, "first", Fault("read", SHORT, number))

    def test_benches(self):
        """Each bench has a test."""
        tests = {name.removeprefix("test_") for name in dir(self) if name.startswith("test_")}
        self.assertEqual(tests - {"benches", "short_reads"}, {*BENCHES})


NO_FAULTS = {
    "lseek": "fails only if the program is wrong",
    "ioctl": "asks whether a file is a terminal, and Python takes an error for no",
}
"""The system calls that the shim does not replace, each with the reason."""


class CallTests(FaultCase):
    """The system calls that can fail."""

    def calls(self, bench, name):
        """Return the system calls on mail during a scenario, as strace tells their names."""
        scenario = SCENARIOS[name](bench)
        scenario.prepare()
        trace = bench.root / "trace"
        command = ["strace", "--follow-forks", "--decode-fds", "--output", trace]
        strace = subprocess.Popen([*command, "--attach", str(bench.pid)], stderr=subprocess.PIPE)
        self.addCleanup(strace.communicate)
        self.addCleanup(strace.kill)
        self.assertIn(b"attached", strace.stderr.readline())
        scenario.act()
        strace.send_signal(signal.SIGINT)
        strace.wait()
        lines = [line for line in trace.read_text().splitlines() if f"{bench.mail}/" in line]
        return {found[1] for line in lines if (found := re.match(r"\d+ +(\w+?)(?:64)?\(", line))}

    def test_replaced(self):
        """All that sessions and deliveries call is made to fail, but for what cannot fail."""
        require_programs(self, "strace")
        found = set()
        for key in ("maildir", "mbox", "mh"):
            for name in ("changed", "delivery"):
                found |= self.calls(self.workshop.bench(key), name)
        self.assertEqual(found - replaced(), {*NO_FAULTS})


class PowerTests(FaultCase):
    """What is not synced is lost at any time of a session or a delivery."""

    def lose_power(self, key, name, number=None):
        """Check power losses during a scenario, all or so many, chosen by a seed."""
        seed = 1725 if "CI" in os.environ else random.SystemRandom().getrandbits(32)
        return lose_power(self.workshop.bench(key), name, random.Random(seed), number)

    def check(self, key):
        """Check some power losses during each scenario of a store."""
        for name in scenarios_of(key):
            scenario = SCENARIOS[name]
            if scenario.is_recorded:
                number = FEW if scenario.is_command else LOSSES
                self.assertEqual(self.lose_power(key, name, number), number)

    def test_maildir(self):
        """What QUIT and LMTP have confirmed is on disk, and all other mail."""
        self.check("maildir")

    def test_trash(self):
        """A power loss does no harm where removed messages are moved to another folder."""
        self.check("trash")

    def test_keep(self):
        """A power loss does no harm where removed messages stay for other programs."""
        self.check("keep")

    def test_dovecot(self):
        """So it is where Dovecot's list has the unique-ids."""
        self.check("dovecot")

    def test_mbox(self):
        """So it is in an mbox file."""
        self.check("mbox")

    def test_mh(self):
        """So it is in an MH folder."""
        self.check("mh")

    def test_sql(self):
        """The objects of an SQL store are on disk; its rows are for the database."""
        if not program("initdb"):
            require_programs(self, "initdb")
        self.assertGreater(self.lose_power("sql", "object-delivery"), 0)

    def test_few_users(self):
        """A bench may begin again with its users between two power losses of a copy."""
        self.patch(Bench, "USERS", 4)
        self.assertEqual(self.lose_power("mbox", "copy", FEW), FEW)

    def test_patched(self):
        """A server or a command that does not sync is found."""
        self.assertEqual({patch for patch, *_ in PATCHED}, {*PATCHES})
        if not program("initdb"):
            require_programs(self, "initdb")
        for patch, key, name in PATCHED:
            bench = self.workshop.bench(key)
            bench.stop()
            bench.patch = patch
            self.assertIn("power loss after", self.broken(bench, name), patch)

    def broken(self, bench, name):
        """Return the text of the promise that power losses break, whichever pages are lost."""
        for seed in range(20):
            try:
                lose_power(bench, name, random.Random(seed))
            except Broken as error:
                return str(error)
        return ""
