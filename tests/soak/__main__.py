"""Run random sessions against real servers: ``make soak``, or ``python -m tests.soak --help``."""

import argparse
import random
import shutil
import sys
import traceback
from pathlib import Path
from tempfile import mkdtemp

from tests.soak.driver import Run
from tests.soak.model import Fault
from tests.soak.plan import steps
from tests.soak.report import HEADER, Report
from tests.soak.stores import STORES


def parse(arguments):
    """Return the options."""
    parser = argparse.ArgumentParser(prog="make soak SOAK=...", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="for each store; default 600")
    parser.add_argument("--seed", type=int, help="of an earlier run, to make the same decisions")
    parser.add_argument("--store", choices=STORES, action="append", help="default: all, in turn")
    parser.add_argument("--users", type=int, default=8, help="default 8")
    parser.add_argument("--polls", type=int, default=30, help="of each user, at a step; default 30")
    parser.add_argument("--life", type=int, default=400, help="steps of each server; default 400")
    parser.add_argument("--interval", type=float, default=10, help="seconds between two lines")
    return parser.parse_args(arguments)


def soak(store, options, seed, root):
    """Run one store; print the progress, and return the run.

    :raises tests.soak.model.Fault: the server does not agree with the model.
    """
    run = Run(root, store, users=options.users, polls=options.polls)
    report = Report(run)
    try:
        for step in steps(seed, options.life):
            if report.seconds > options.seconds:
                break
            run.execute(step)
            if report.seconds_since_line > options.interval:
                print(report.line(), flush=True)
        print(report.line(), flush=True)
        run.finish()
    except BaseException:
        print(run.transcript.last())
        raise
    finally:
        run.close()
    return run


def again(store, options, seed):
    """Return the command that makes the same decisions."""
    return (
        f"make soak SOAK='--store {store} --seed {seed} --seconds {options.seconds:g} "
        f"--users {options.users} --polls {options.polls} --life {options.life}'"
    )


def main(arguments=None):
    """Run all stores that are wanted; return the exit code."""
    options = parse(arguments)
    seed = random.SystemRandom().getrandbits(32) if options.seed is None else options.seed
    for store in options.store or STORES:
        print(f"{store}, seed {seed}\n{HEADER}", flush=True)
        root = Path(mkdtemp(prefix="popserv-soak-"))
        root.chmod(0o755)
        try:
            run = soak(store, options, seed, root)
        except Exception as error:
            kind = "fault" if isinstance(error, Fault) else "error"
            traceback.print_exc(file=sys.stdout)
            print(
                f"{kind}; the mail and the log are in {root}\nagain: {again(store, options, seed)}"
            )
            return 1
        except KeyboardInterrupt:
            shutil.rmtree(root)
            return 130
        shutil.rmtree(root)
        counts = run.counts
        print(
            f"{store}: {counts['sessions']} sessions, {counts['commands']} commands, "
            f"{counts['steps']} steps, {counts['kills']} kills, no fault\n",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
