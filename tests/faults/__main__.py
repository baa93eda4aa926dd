"""Let system calls of real servers fail, each in turn: ``make faults``."""

import argparse
import random
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.faults.runs import Broken, all_faults, run, summary
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


def main(arguments=None):
    """Run the faults; print each promise that does not hold, and return the exit code."""
    options = parse(arguments)
    broken = Counter()
    with TemporaryDirectory(prefix="popserv-faults-") as root:
        Path(root).chmod(0o755)
        workshop = Workshop(Path(root))
        try:
            for key in options.bench or BENCHES:
                for name in options.scenario or SCENARIOS:
                    if not SCENARIOS[name].fits(BENCHES[key][0]):
                        continue
                    bench = workshop.bench(key)
                    started, faults = time.monotonic(), chosen(options, bench, name)
                    hits = 0
                    for number, fault in enumerate(faults, 1):
                        if sys.stdout.isatty():
                            print(f"\r{key} {name}: {number} of {len(faults)} ", end="", flush=True)
                        try:
                            hits += run(bench, name, fault).hits > 0
                        except Broken as error:
                            broken[summary(str(error))] += 1
                            print(f"\n{error}", flush=True)
                            bench.stop()
                    seconds = time.monotonic() - started
                    print(f"\r{key} {name}: {hits} faults in {seconds:.0f} s", flush=True)
        finally:
            workshop.close()
    for text, number in broken.most_common():
        print(f"{number:5} {text}")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
