"""The command and its options."""

import argparse
import random
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tests.fuzz import corpus, keeping, libfuzzer, native, reaching
from tests.fuzz.cost import bounded_memory
from tests.fuzz.mutation import mutations
from tests.fuzz.run import Failed, Run
from tests.fuzz.stopping import Stop
from tests.fuzz.targets import TARGETS
from tests.fuzz.turns import Turns


def parse(arguments):
    """Return the options."""
    parser = argparse.ArgumentParser(prog="make fuzz FUZZ=...", description="Fuzz popserv.")
    parser.add_argument("--seconds", type=float, default=60, help="for each target; default 60")
    parser.add_argument(
        "--inputs", type=int, default=0, help="take more turns until there are so many in all"
    )
    parser.add_argument("--seed", type=int, help="of an earlier run")
    parser.add_argument(
        "--target", choices=[*TARGETS, native.NAME], action="append", help="default: all, in turn"
    )
    parser.add_argument("--input", type=Path, help="run this input only, of the one target")
    parser.add_argument(
        "--mutate", action="store_true", help="change the corpus at random, as without atheris"
    )
    parser.add_argument(
        "--keep", action="store_true", help="keep the inputs that reach most, and the slowest ones"
    )
    options = parser.parse_args(arguments)
    if options.input and (len(options.target or ()) != 1 or native.NAME in options.target):
        parser.error(f"--input: name one --target, but not {native.NAME}")
    return options


def mutate(target, seconds, seed, stop):
    """Run a target with changed inputs; return whether no input has failed."""
    run = Run(target, seconds)
    stop.call(run.stop)
    try:
        with ExitStack() as stack:
            stack.enter_context(bounded_memory())
            reached = (
                (stack.enter_context(reaching.new_lines()),) if reaching.is_available() else ()
            )
            for data in mutations(target, corpus.inputs_of(target), seed, *reached):
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
    names = options.target or [*TARGETS, *([native.NAME] if native.is_available() else [])]
    targets = [TARGETS[name] for name in names if name != native.NAME]
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
    lines = "new lines" if reaching.is_available() else "nothing"
    guide = "coverage" if is_guided else f"{lines}: atheris is not used"
    print(f"seed {seed}, guided by {guide}", flush=True)
    engine = libfuzzer.fuzz if is_guided else mutate
    engines = {target.name: partial(engine, target) for target in targets}
    if native.NAME in names:
        engines[native.NAME] = native.fuzz
    turns = Turns(engines, options.seconds, options.inputs)
    with Stop() as stop:
        failed = turns.run(seed, stop)
    print(*turns.table(), sep="\n")
    if failed:
        print("failed:", *failed)
    return int(bool(failed))
