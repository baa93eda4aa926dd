"""Chooses the inputs that are kept in the tree: those that reach most, and the slowest ones.

libFuzzer's ``-merge=1`` would keep hundreds of each target, since it also tells apart how often
something is reached.
"""

import sys

from tests.fuzz import corpus
from tests.fuzz.corpus import KEPT, WORK
from tests.fuzz.cost import seconds_of

MAX_INPUTS = 10
"""The inputs of each target that are kept for what they reach."""

MAX_KEPT_OCTETS = 400
"""The octets of the longest input that is kept for what it reaches."""


def reached(target, data):
    """Return the lines of popserv that an input reaches, with the line before each."""
    arcs = set()

    def trace(frame, event, _argument):
        if "/popserv/" not in frame.f_code.co_filename:
            return None
        code, last = frame.f_code, 0

        def trace_lines(frame, event, _argument):
            nonlocal last
            arcs.add((code, last, frame.f_lineno))
            last = frame.f_lineno
            return trace_lines

        return trace_lines

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        target.check(data)
    finally:
        sys.settrace(before)
    return arcs


def keep(target):
    """Replace what is kept of a target, but for ``found-*``, the inputs that have found a fault.

    Return how many inputs are kept for what they reach, how many lines of popserv these and the
    seeds reach, each with the line before it, and how many all inputs reach.
    """
    found = {*corpus.read(WORK / "corpus" / target.name), *corpus.read(KEPT / target.name)}
    candidates = sorted((each for each in found if len(each) <= MAX_KEPT_OCTETS), key=len)
    known = set().union(*(reached(target, data) for data in target.seeds))
    gains = {data: reached(target, data) for data in candidates}
    everything = known.union(*gains.values())
    chosen = []
    while gains and len(chosen) < MAX_INPUTS:
        best = max(gains, key=lambda data: (len(gains[data] - known), -len(data)))
        new = gains.pop(best) - known
        if not new:
            break
        known |= new
        chosen.append(best)
    directory = KEPT / target.name
    slow = slowest(target, [*directory.glob("slow-*"), *(WORK / "slowest" / target.name).glob("*")])
    for path in directory.glob("*"):
        if not path.name.startswith("found-"):
            path.unlink()
    for data in chosen:
        corpus.write(directory, data)
    for data in slow:
        corpus.write(directory, data, "slow-")
    return len(chosen), len(known), len(everything)


def slowest(target, paths):
    """Return the slowest of the inputs in files: one of each length in bits."""
    found = {}
    for data in (path.read_bytes() for path in paths):
        seconds = min(seconds_of(target, data) for _ in range(3))
        bits = len(data).bit_length()
        found[bits] = max(found.get(bits, (0, b"")), (seconds, data))
    return [data for _, data in found.values()]
