"""Let system calls of real servers fail, each in turn: ``make faults``."""

import argparse
import random
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.faults.runs import Broken, all_faults, lose_power, run, summary
from tests.faults.scenarios import SCENARIOS
from tests.faults.shim import CLASSES, ERRORS, KILL, SHORT, Fault
from tests.faults.workshop import BENCHES, Workshop


def parse(arguments):
    """Return the options."""
    parser = argparse.ArgumentParser(prog="make faults FAULTS=...", description=__doc__)
    parser.add_argument("--bench", choices=BENCHES, action="append", help="default: all")
    parser.add_argument("--scenario", choices=SCENARIOS, action="append", help="default: all")
    parser.add_argument("--calls", choices=CLASSES, action="append", help="default: all")
    parser.add_argument(
        "--error", choices=(*ERRORS, SHORT, KILL), action="append", help="default: all"
    )
    parser.add_argument("--fault", type=Fault.parse, help="one, such as fsync:EIO:2")
    parser.add_argument("--power", action="store_true", help="power losses only")
    parser.add_argument("--sample", type=int, help="at most so many faults of each scenario")
    parser.add_argument("--seed", type=int, default=1725, help="which of them; default 1725")
    return parser.parse_args(arguments)


def chosen(options, bench, name):
    """Return the faults of a scenario that the options select."""
    if options.fault:
        return [options.fault]
    faults = [
        each
        for each in all_faults(bench, name)
        if each.calls in (options.calls or CLASSES)
        and each.error in (options.error or (*ERRORS, SHORT, KILL))
    ]
    if options.sample and options.sample < len(faults):
        return random.Random(f"{options.seed} {bench.kind} {name}").sample(faults, options.sample)
    return faults


class Table:
    """The lines of a run, and how often each promise was broken."""

    def __init__(self):
        self.broken = Counter()

    def faults(self, bench, key, name, faults):
        """Run the faults of a scenario."""
        started, hits = time.monotonic(), 0
        for number, fault in enumerate(faults, 1):
            if sys.stdout.isatty():
                print(f"{key} {name}: {number} of {len(faults)}", end="\r", flush=True)
            try:
                hits += run(bench, name, fault).hits > 0
            except Broken as error:
                self._add(bench, error)
        print(f"{key} {name}: {hits} faults in {time.monotonic() - started:.0f} s", flush=True)

    def power_losses(self, bench, key, name, options):
        """Run the power losses of a scenario."""
        started = time.monotonic()
        try:
            losses = lose_power(bench, name, random.Random(options.seed), options.sample)
        except Broken as error:
            self._add(bench, error)
            return
        seconds = time.monotonic() - started
        print(f"{key} {name}: {losses} power losses in {seconds:.0f} s", flush=True)

    def _add(self, bench, error):
        self.broken[summary(str(error))] += 1
        print(f"\n{error}", flush=True)
        bench.stop()


def main(arguments=None):
    """Run the faults; print each promise that does not hold, and return the exit code."""
    options = parse(arguments)
    table = Table()
    with TemporaryDirectory(prefix="popserv-faults-") as root:
        Path(root).chmod(0o755)
        workshop = Workshop(Path(root))
        try:
            for key in options.bench or BENCHES:
                for name in options.scenario or SCENARIOS:
                    scenario, bench = SCENARIOS[name], workshop.bench(key)
                    if not scenario.fits(bench.kind):
                        continue
                    if not options.power:
                        table.faults(bench, key, name, chosen(options, bench, name))
                    if scenario.is_recorded and not options.fault:
                        table.power_losses(bench, key, name, options)
        finally:
            workshop.close()
    for text, number in table.broken.most_common():
        print(f"{number:5} {text}")
    return int(bool(table.broken))


if __name__ == "__main__":
    sys.exit(main())
