"""What has been run, which mutants are equivalent, and the table of all."""

import json
import sys
from collections import Counter
from functools import cache
from hashlib import blake2b
from importlib import import_module
from pathlib import Path

from tests.mutation.mutants import CHECKOUT, Change
from tests.mutation.running import KILLED, SURVIVED, TIMED_OUT, Verdict

# Python 3.10 has none; tomli is the same.
tomllib = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

EQUIVALENT = "equivalent"
OUTCOMES = (KILLED, TIMED_OUT, EQUIVALENT, SURVIVED)

EQUIVALENTS = Path(__file__).with_name("equivalents.toml")


def read_equivalents(path=EQUIVALENTS):
    """Return the reasons why mutants are equivalent, by their changes."""
    tables = tomllib.loads(path.read_text("utf-8")).get("mutant", ())
    return {Change(**change): reason for change, reason in map(_split, tables)}


def _split(table):
    return {key: value for key, value in table.items() if key != "reason"}, table["reason"]


@cache
def digest_of_tree():
    """Return a digest of all code and tests."""
    state = blake2b(digest_size=16)
    for top in ("popserv", "tests"):
        for path in sorted((CHECKOUT / top).rglob("*.py")):
            state.update(path.read_bytes())
    return state.hexdigest()


class Results:
    """The verdicts about the mutants of a module, each of which is a line of a file.

    A verdict holds while neither the mutant nor any code or test has changed.
    """

    def __init__(self, directory, path):
        directory.mkdir(parents=True, exist_ok=True)
        self._path = directory / f"{path.replace('/', '.')}.jsonl"
        self._tree = digest_of_tree()
        self._kept = {}
        if self._path.exists():
            for line in self._path.read_text("utf-8").splitlines():
                change, *rest = json.loads(line)
                self._kept[Change(*change)] = rest

    def latest(self, mutant):
        """Return the latest verdict about a mutant, which is of no outcome if there is none."""
        return Verdict(*self._kept.get(mutant.change, ("", "", "", ""))[2:])

    def holds(self, mutant):
        """Return whether there is a verdict that holds."""
        return self._kept.get(mutant.change, ())[:2] == [mutant.digest(), self._tree]

    def put(self, mutant, verdict):
        """Keep a verdict."""
        with self._path.open("a", encoding="utf-8") as file:
            print(json.dumps([mutant.change, mutant.digest(), self._tree, *verdict]), file=file)


def table(counts):
    """Return the lines of the table: for each module how many mutants had which outcome."""
    total = sum(counts.values(), Counter())
    rows = [("module", "mutants", *OUTCOMES)]
    for name, each in (*counts.items(), ("all", total)):
        rows.append((name, sum(each.values()), *(each[outcome] for outcome in OUTCOMES)))
    width = max(len(name) for name, *_ in rows)
    yield from ("  ".join([f"{row[0]:{width}}", *(f"{n:>10}" for n in row[1:])]) for row in rows)
    counted = sum(total.values()) - total[EQUIVALENT]
    found = total[KILLED] + total[TIMED_OUT]
    yield f"{found} of {counted} are found: {100 * found / max(counted, 1):.1f} %"
