"""Let system calls of real servers fail, each in turn: ``make faults``."""

import argparse
import random
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.faults.base import Broken
from tests.faults.runs import all_faults, lose_power, run, summary
from tests.faults.scenarios import SCENARIOS, scenarios_of
from tests.faults.shim import CLASSES, ERRORS, KILL, SHORT, SOCKET_ERRORS, Fault
from tests.faults.workshop import BENCHES, Workshop
from tests.live.postgresql import program

_ALL_ERRORS = (*ERRORS, *(each for each in SOCKET_ERRORS if each not in ERRORS), SHORT, KILL)


def parse(arguments):
    """Return the options."""
    parser = argparse.ArgumentParser(prog="make faults FAULTS=...", description=__doc__)
    parser.add_argument(
        "--bench",
        choices=BENCHES,
        action="append",
        help="default: all, but sql only if PostgreSQL is installed",
    )
    parser.add_argument("--scenario", choices=SCENARIOS, action="append", help="default: all")
    parser.add_argument("--calls", choices=CLASSES, action="append", help="default: all")
    parser.add_argument("--error", choices=_ALL_ERRORS, action="append", help="default: all")
    parser.add_argument("--fault", type=Fault.parse, help="one, such as fsync:EIO:2")
    times = parser.add_mutually_exclusive_group()
    times.add_argument("--once", action="store_true", help="faults of one call only")
    times.add_argument("--lasting", action="store_true", help="faults of all later calls only")
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
        and each.error in (options.error or _ALL_ERRORS)
        and not (options.once and each.lasts)
        and not (options.lasting and not each.lasts)
    ]
    if options.sample and options.sample < len(faults):
        return random.Random(f"{options.seed} {bench.kind} {name}").sample(faults, options.sample)
    return faults


class Table:
    """The lines of a run, and how often each promise was broken."""

    def __init__(self):
        self.broken = Counter()
        self.number = self.losses = 0

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
        self.number += hits
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
        self.losses += losses
        print(f"{key} {name}: {losses} power losses in {seconds:.0f} s", flush=True)

    def _add(self, bench, error):
        self.broken[summary(str(error))] += 1
        print(f"\n{error}", flush=True)
        bench.stop()


def main(arguments=None):
    """Run the faults; print each promise that does not hold, and return the exit code."""
    options = parse(arguments)
    table, initdb = Table(), program("initdb")
    with TemporaryDirectory(prefix="popserv-faults-") as root:
        Path(root).chmod(0o755)
        workshop = Workshop(Path(root))
        try:
            for key in options.bench or [each for each in BENCHES if each != "sql" or initdb]:
                bench = workshop.bench(key)
                for name in scenarios_of(key):
                    if options.scenario and name not in options.scenario:
                        continue
                    if not options.power:
                        table.faults(bench, key, name, chosen(options, bench, name))
                    if SCENARIOS[name].is_recorded and not options.fault:
                        table.power_losses(bench, key, name, options)
        finally:
            workshop.close()
    print(f"{table.number} faults, {table.losses} power losses")
    for text, number in table.broken.most_common():
        print(f"{number:5} {text}")
    return int(bool(table.broken))


if __name__ == "__main__":
    sys.exit(main())
