"""What a target of the fuzzing is."""

from collections.abc import Callable
from typing import NamedTuple

MAX_OCTETS = 512
"""The octets of the longest input that a target gets, unless it says otherwise."""

_MAX_PIECES = 16
"""The pieces into which an input is cut: each of them takes time."""


class Target(NamedTuple):
    """A function that is called with inputs, and what is known of them.

    ``check`` takes the octets of an input.  It returns nothing, and raises an exception if popserv
    does not do with them what it promises.  ``seeds`` are valid inputs to begin with, and ``words``
    octets that are worth inserting.

    ``seconds_per_octet`` bounds the processor time of an input, ``calls_per_octet`` the functions
    that it calls, and ``memory_per_octet`` the octets of memory at its peak; each input has
    :data:`tests.fuzz.cost.BASE` in addition.
    """

    name: str
    check: Callable[[bytes], object]
    seeds: tuple[bytes, ...]
    words: tuple[bytes, ...] = ()
    max_octets: int = MAX_OCTETS
    seconds_per_octet: float = 1e-4
    calls_per_octet: int = 40
    memory_per_octet: int = 200


def selected(data, number):
    """Return the numbers of the first octets of an input, which select a case, and the rest."""
    head = data[:number].ljust(number, b"\0")
    return (*head, data[number:])


def pieces(data, size):
    """Return octets cut into pieces of a size, or of a larger one if there were too many."""
    size = max(size, -(-len(data) // _MAX_PIECES), 1)
    return [data[at : at + size] for at in range(0, len(data), size)]
