"""Change single lines of popserv, and see whether a test fails: ``make mutation``."""

import argparse
import os
import random
import sys
from collections import Counter
from pathlib import Path

from tests.mutation.covering import Covering, measure, tests_of
from tests.mutation.mutants import CHECKOUT, changed_lines, changed_modules, mutants_of, unchanged
from tests.mutation.results import EQUIVALENT, Results, read_equivalents, table
from tests.mutation.running import SURVIVED, in_child, judge, name_of, prepare

DIRECTORY = CHECKOUT / "build" / "mutation"
SECONDS = 20

WITH_C = ("popserv/runtime/native_threads.py", "popserv/runtime/threads.py")
"""The modules that use jobs of ``popserv._speedups``; for others it would replace what is tried."""


def parse(arguments):
    """Return the options."""
    parser = argparse.ArgumentParser(prog="make mutation MUTATION=...", description=__doc__)
    parser.add_argument(
        "--module", action="append", help="a file or a directory, such as popserv/core"
    )
    parser.add_argument("--since", metavar="REV", help="only lines changed since this revision")
    parser.add_argument("--sample", type=int, help="at most so many mutants of each module")
    parser.add_argument("--seed", type=int, default=1725, help="which of them; default 1725")
    parser.add_argument("--survivors", action="store_true", help="only those that survived before")
    parser.add_argument(
        "--tests", action="append", help="these tests instead of those in the module's place"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=SECONDS,
        help=f"of the tests of a mutant, the fastest that take so long together; default {SECONDS}",
    )
    parser.add_argument(
        "--directory", type=Path, default=DIRECTORY, help="where results are kept, build/mutation"
    )
    options = parser.parse_args(arguments)
    if not (options.module or options.since):
        parser.error("name a --module, or --since a revision")
    return options


def modules(options):
    """Return the paths of the modules that the options name, relative to the checkout."""
    found = []
    for name in options.module or changed_modules(options.since):
        place = CHECKOUT / name
        files = sorted(place.rglob("*.py")) if place.is_dir() else [place]
        found += [str(each.relative_to(CHECKOUT)) for each in files]
    return found


def chosen(options, path):
    """Return the mutants of a module that the options select."""
    lines = changed_lines(path, options.since) if options.since else None
    if lines is not None and not lines:
        return []
    mutants = [
        each for each in mutants_of(path) if lines is None or not lines.isdisjoint(each.lines)
    ]
    if options.sample and options.sample < len(mutants):
        return random.Random(f"{options.seed} {path}").sample(mutants, options.sample)
    return mutants


class Module:
    """The mutants of a module that the options select, and their verdicts."""

    def __init__(self, options, path, equivalents):
        self._options, self.path = options, path
        self.mutants = chosen(options, path)
        self._results = Results(options.directory, path)
        self._equivalents = equivalents

    def pending(self):
        """Return the mutants that are to be run."""
        mutants = [each for each in self.mutants if each.change not in self._equivalents]
        if self._options.survivors:
            return [each for each in mutants if self._results.latest(each).outcome == SURVIVED]
        return [each for each in mutants if not self._results.holds(each)]

    def run(self, covering):
        """Run the pending mutants; each verdict is kept at once.

        :raises SystemExit: a test fails with the module itself.
        """
        name, pending = name_of(self.path), self.pending()
        prepare(name, covering.modules)
        itself = unchanged(self.path)
        verdict = judge(itself, name, *self._tests(covering, itself))
        if verdict.outcome != SURVIVED:
            sys.exit(f"{self.path}: {verdict.test or 'a test'} fails without a mutant")
        for number, mutant in enumerate(pending, 1):
            self._results.put(mutant, judge(mutant, name, *self._tests(covering, mutant)))
            if sys.stdout.isatty() or number % 50 == 0:
                print(f"{self.path}: {number} of {len(pending)}", end="\r", flush=True)

    def _tests(self, covering, mutant):
        """Return the names of the tests of a mutant, and how long they take without it."""
        names = covering.tests(self.path, mutant.lines)
        # The test that has failed before is the likeliest to fail.
        names.sort(key=lambda name: name != self._results.latest(mutant).test)
        taken, seconds = [], 0.0
        for each in names:
            if seconds < self._options.seconds:
                taken.append(each)
                seconds += covering.seconds[each]
        return taken, seconds

    def report(self):
        """Print the survivors; return how many mutants had which outcome."""
        results, counts = Results(self._options.directory, self.path), Counter()
        for mutant in self.mutants:
            is_equivalent = mutant.change in self._equivalents
            outcome = EQUIVALENT if is_equivalent else results.latest(mutant).outcome
            counts[outcome or "not run"] += 1
            if outcome == SURVIVED:
                print(mutant)
        print(f"{self.path}: {', '.join(f'{n} {what}' for what, n in counts.items())}", flush=True)
        return counts


def covering_of(path, options, cache):
    """Return what a run of the tests of a module without a mutant shows."""
    package, names = str(Path(path).parent), options.tests or tests_of(path)
    key = (path in WITH_C, package, *names)
    if key not in cache:
        directory = options.directory / package.replace("/", ".")
        print(f"{package}: running its tests without a mutant", flush=True)
        if not in_child(measure, names, package, directory):
            sys.exit(1)
        cache[key] = Covering(directory)
    return cache[key]


def main(arguments=None):
    """Run the mutants that the options select; return the exit code."""
    # Hypothesis tries the same examples each time.
    os.environ["CI"] = "1"
    options, equivalents = parse(arguments), read_equivalents()
    cache, counts = {}, {}
    for path in modules(options):
        # It is read in the processes that import popserv.
        os.environ["PURE_PYTHON"] = str(int(path not in WITH_C))
        module = Module(options, path, equivalents)
        if module.pending() and not in_child(module.run, covering_of(path, options, cache)):
            return 1
        if module.mutants:
            counts[path] = module.report()
    if not counts:
        print("these lines have no mutants")
        return 0
    print(*table(counts), sep="\n")
    return int(any(each[SURVIVED] for each in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
