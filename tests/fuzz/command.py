"""The command: its options, the turns of the targets, and the table at the end."""

import argparse
import random
from pathlib import Path

from tests.fuzz import corpus, keeping, libfuzzer, totals
from tests.fuzz.mutation import mutations
from tests.fuzz.run import Failed, Run
from tests.fuzz.stopping import Stop
from tests.fuzz.targets import TARGETS


def parse(arguments):
    """Return the options."""
    parser = argparse.ArgumentParser(prog="make fuzz FUZZ=...", description="Fuzz popserv.")
    parser.add_argument("--seconds", type=float, default=60, help="for each target; default 60")
    parser.add_argument(
        "--inputs", type=int, default=0, help="take more turns until there are so many in all"
    )
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


def mutate(target, seconds, seed, stop):
    """Run a target with changed inputs, without coverage; return whether no input has failed."""
    run = Run(target, seconds)
    stop.call(run.stop)
    try:
        for data in mutations(target, corpus.inputs_of(target), seed):
            if not run.feed(data):
                break
    except Failed as failed:
        failed.show()
        return False
    run.finish()
    return True


class Turns:
    """The turns of the targets, one of ``seconds`` each, and more until there are ``inputs``.

    A target gets twice as long if its last turn has found inputs that reach something new.
    """

    def __init__(self, targets, engine, seconds, inputs):
        self._targets = targets
        self._engine = engine
        self._seconds = seconds
        self._inputs = inputs
        self._found = set()
        self._before = self._totals()

    def _totals(self):
        return totals.read(corpus.WORK, [target.name for target in self._targets])

    def run(self, seed, stop):
        """Run the targets until a signal asks for the end; return the names of those that fail."""
        failed = []
        is_done = False
        while not is_done:
            for target in self._targets:
                # One that fails does not keep the others from running.
                if target.name not in failed and not stop.is_wanted:
                    failed += [] if self._turn(target, seed, stop) else [target.name]
            seed += 1
            inputs = sum(self._totals().values()) - sum(self._before.values())
            is_done = stop.is_wanted or inputs >= self._inputs or len(failed) == len(self._targets)
        return failed

    def _turn(self, target, seed, stop):
        """Run a target; return whether no input has failed."""
        directory = corpus.WORK / "corpus" / target.name
        before = len(corpus.names(directory))
        seconds = self._seconds * (2 if target.name in self._found else 1)
        is_good = self._engine(target, seconds, seed, stop)
        (self._found.add if len(corpus.names(directory)) > before else self._found.discard)(
            target.name
        )
        return is_good

    def table(self):
        """Return the lines of a table of the inputs."""
        return totals.table(self._before, self._totals())


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
            kept, reached, everything = keeping.keep(target)
            print(f"{target.name}: {kept} inputs are kept, {reached} of {everything} lines reached")
        return 0
    seed = random.SystemRandom().getrandbits(31) if options.seed is None else options.seed
    is_guided = libfuzzer.is_available() and not options.mutate
    guide = "coverage" if is_guided else "no coverage: atheris is not used"
    print(f"seed {seed}, {guide}", flush=True)
    turns = Turns(targets, libfuzzer.fuzz if is_guided else mutate, options.seconds, options.inputs)
    with Stop() as stop:
        failed = turns.run(seed, stop)
    print(*turns.table(), sep="\n")
    if failed:
        print("failed:", *failed)
    return int(bool(failed))
