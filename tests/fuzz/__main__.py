"""Fuzz popserv: ``make fuzz``, or ``python -m tests.fuzz --help``."""

import argparse
import random
import sys
from pathlib import Path

from tests.fuzz import corpus, keeping, libfuzzer
from tests.fuzz.mutation import mutations
from tests.fuzz.run import Failed, Run
from tests.fuzz.targets import TARGETS


def parse(arguments):
    """Return the options."""
    parser = argparse.ArgumentParser(prog="make fuzz FUZZ=...", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="for each target; default 60")
    parser.add_argument("--seed", type=int, help="of an earlier run")
    parser.add_argument("--target", choices=TARGETS, action="append", help="default: all, in turn")
    parser.add_argument("--input", type=Path, help="run this input only, of the one target")
    parser.add_argument(
        "--mutate", action="store_true", help="change the corpus at random, as without atheris"
    )
    parser.add_argument(
        "--keep", action="store_true", help="keep the inputs that reach most, and the slowest ones"
    )
    options = parser.parse_args(arguments)
    if options.input and len(options.target or ()) != 1:
        parser.error("--input: name one --target")
    return options


def mutate(target, seconds, seed):
    """Run a target with changed inputs, without coverage; return whether no input has failed."""
    run = Run(target, seconds)
    try:
        for data in mutations(target, corpus.inputs_of(target), seed):
            if not run.feed(data):
                break
    except Failed as failed:
        failed.show()
        return False
    run.finish()
    return True


def main(arguments=None):
    """Run all targets that are wanted; return the exit code."""
    options = parse(arguments)
    targets = [TARGETS[name] for name in options.target or TARGETS]
    if options.input:
        targets[0].check(options.input.read_bytes())
        print(f"{options.input}: no fault")
        return 0
    if options.keep:
        for target in targets:
            print(f"{target.name}: {keeping.keep(target)} inputs are kept")
        return 0
    seed = random.SystemRandom().getrandbits(31) if options.seed is None else options.seed
    is_guided = libfuzzer.is_available() and not options.mutate
    guide = "coverage" if is_guided else "no coverage: atheris is not used"
    print(f"seed {seed}, {guide}", flush=True)
    engine = libfuzzer.fuzz if is_guided else mutate
    # One that fails does not keep the others from running.
    failed = [each.name for each in targets if not engine(each, options.seconds, seed)]
    if failed:
        print("failed:", *failed)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
