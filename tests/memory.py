"""The memory that a function takes."""

import gc
import tracemalloc

MIB = 1 << 20


def peak_of(function):
    """Return the octets at the peak of a call, beyond what was in use before."""
    return _traced(function, 1)


def growth_of(function):
    """Return the octets that are in use after a call, beyond what was in use before."""
    return _traced(function, 0)


def _traced(function, which):
    gc.collect()
    tracemalloc.start()
    try:
        kept = function()
        gc.collect()
        return tracemalloc.get_traced_memory()[which]
    finally:
        tracemalloc.stop()
        del kept
