"""Use servers for a million sessions each, and see whether anything grows: ``make endurance``."""

import argparse
import shutil
import sys
import time
import traceback
from pathlib import Path
from tempfile import mkdtemp

from tests.endurance import report
from tests.endurance.run import Run
from tests.endurance.trends import BOUNDS, MINIMUM, trends
from tests.live.harness import CHECKOUT
from tests.soak.model import Fault

SERVERS = {"two workers": 2, "one process": 1}
"""The numbers of workers by the names of the servers."""


def parse(arguments):
    """Return the options."""
    parser = argparse.ArgumentParser(prog="make endurance ENDURANCE=...", description=__doc__)
    parser.add_argument(
        "--sessions", type=int, default=1_000_000, help="of each server; default 1000000"
    )
    parser.add_argument("--rounds", type=int, default=200, help="samples; default 200")
    parser.add_argument("--seconds", type=float, help="end after this time, whatever is reached")
    parser.add_argument("--clients", type=int, default=4, help="default 4")
    parser.add_argument("--seed", type=int, default=1725, help="of the decisions; default 1725")
    parser.add_argument(
        "--results", type=Path, default=CHECKOUT / "build" / "endurance", help="a directory"
    )
    options = parser.parse_args(arguments)
    if options.rounds < MINIMUM:
        parser.error(f"--rounds: at least {MINIMUM}")
    if options.sessions < options.rounds * options.clients:
        parser.error("--sessions: at least one of each client in each round")
    return options


def live(options, root):
    """Run the servers, a round of each in turn; return the samples of each by its name.

    :raises tests.soak.model.Fault: a server has not done what it must.
    """
    start = time.monotonic()
    runs, samples = {}, {name: [] for name in SERVERS}
    try:
        for name, workers in SERVERS.items():
            (root / name).mkdir()
            runs[name] = Run(root / name, workers, clients=options.clients, seed=options.seed)
        for number in range(options.rounds):
            is_late = options.seconds and time.monotonic() - start > options.seconds
            if is_late and number >= MINIMUM:
                break
            for name, run in runs.items():
                sample = run.round(options.sessions // options.rounds // options.clients)
                samples[name].append(sample)
                print(f"{name} {report.line(sample)}", flush=True)
        for run in runs.values():
            run.finish()
    finally:
        for run in runs.values():
            run.close()
    return samples


def main(arguments=None):
    """Run the servers; return the exit code, which is 1 if there was a fault or a figure grew."""
    options = parse(arguments)
    width = len(next(iter(SERVERS)))
    print(f"{' ' * width} {report.header()}", flush=True)
    root = Path(mkdtemp(prefix="popserv-endurance-"))
    root.chmod(0o755)
    try:
        samples = live(options, root)
    except Exception as error:
        kind = "fault" if isinstance(error, Fault) else "error"
        traceback.print_exc(file=sys.stdout)
        print(f"{kind}; the mail and the logs are in {root}")
        return 1
    except KeyboardInterrupt:
        shutil.rmtree(root)
        return 130
    shutil.rmtree(root)
    found = {name: trends(of_server) for name, of_server in samples.items()}
    report.write(options.results, samples, found)
    print(f"tables and plot: {options.results}")
    has_grown = False
    for name, of_server in found.items():
        for each, row in zip(of_server, report.trend_rows(of_server), strict=True):
            has_grown |= not each.is_allowed
            verdict = "" if each.is_allowed else f": FAILED, allowed is {BOUNDS[each.name]}"
            print(f"{name}: {row[0]}: {row[1]} at the start, {row[2]} at the end{verdict}")
    return int(has_grown)


if __name__ == "__main__":
    sys.exit(main())
