"""What an input costs: processor time, calls, and memory."""

import resource
import sys
import time
import tracemalloc
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple


class Cost(NamedTuple):
    """The cost that every input may have, or that of one."""

    seconds: float
    calls: int
    memory: int


BASE = Cost(0.05, 20_000, 1 << 20)
"""What an input may cost in addition to its octets."""


MAX_MIB = 1024
"""The memory of a run, beyond which its input is a failure."""


@contextmanager
def bounded_memory():
    """Let an input fail by a MemoryError if it needs more than :data:`MAX_MIB`."""
    before, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (MAX_MIB << 20), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (before, hard))


def seconds_of(target, data):
    """Return the seconds of processor time that this thread takes for an input."""
    start = time.thread_time()
    target.check(data)
    return time.thread_time() - start


def max_seconds(target, data):
    """Return the seconds that an input may take."""
    return BASE.seconds + target.seconds_per_octet * len(data)


def calls_of(target, data):
    """Return how many functions an input calls: unlike time, each run gives the same number."""
    number = 0

    def count(_frame, event, _argument):
        nonlocal number
        number += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        target.check(data)
    finally:
        sys.setprofile(before)
    return number


def memory_of(target, data):
    """Return the octets of memory at the peak of an input, beyond what was in use before."""
    tracemalloc.start()
    try:
        target.check(data)
        tracemalloc.clear_traces()
        target.check(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
