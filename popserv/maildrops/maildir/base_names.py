"""The unique parts of messages' names: their order, and the unique-ids that they are.

Maildrops may hold a million, so all of it works in pieces: nothing here keeps other
threads waiting for more than some milliseconds.
"""

from __future__ import annotations

import re
from bisect import bisect, bisect_left
from collections.abc import Iterator, Sequence
from heapq import merge
from operator import lt

from popserv.core.snapshot import valid_unique_id

_PIECE = 4096
_SAMPLE = 512

# As nearly all are: put in order as they are spelt, and legal as they are.
_USUAL = re.compile(rb"(?:[0-9]{10}\.[!-~]{0,59}\0)*")


def delivered(unique: bytes) -> tuple[int, bytes]:
    """Return what messages are put in order by: the time that a name starts with, the name."""
    seconds = unique.partition(b".")[0]
    return int(seconds) if seconds.isdigit() and len(seconds) < 20 else 0, unique


def in_order(uniques: Sequence[bytes]) -> list[bytes]:
    """Return names in order."""
    if not _are_usual(uniques):
        pieces = (sorted(piece, key=delivered) for piece in _pieces(uniques))
        return list(merge(*pieces, key=delivered))
    runs = [sorted(piece) for piece in _pieces(uniques)]
    samples = sorted(unique for run in runs for unique in run[::_SAMPLE])
    ordered: list[bytes] = []
    begins = [0] * len(runs)
    for bound in samples[_PIECE // _SAMPLE :: _PIECE // _SAMPLE]:
        ends = [bisect_left(run, bound, at) for run, at in zip(runs, begins, strict=True)]
        ordered += _merged(runs, begins, ends)
        begins = ends
    return ordered + _merged(runs, begins, [len(run) for run in runs])


def _merged(runs: list[list[bytes]], begins: list[int], ends: list[int]) -> list[bytes]:
    # sort() sees that they are sorted already, each for itself.
    return sorted(
        unique
        for run, begin, end in zip(runs, begins, ends, strict=True)
        for unique in run[begin:end]
    )


def are_in_order(uniques: Sequence[bytes]) -> bool:
    """Tell whether names are in order, and no two alike."""
    column = uniques if _are_usual(uniques) else list(map(delivered, uniques))
    return all(
        all(map(lt, column[at : at + _PIECE], column[at + 1 : at + 1 + _PIECE]))
        for at in range(0, len(column), _PIECE)
    )


def unique_ids(uniques: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Return the unique-ids of names; the same tuple if they are legal themselves."""
    return uniques if _are_usual(uniques) else tuple(map(valid_unique_id, uniques))


def put_between(kept: list[int], uniques: Sequence[bytes], fresh: int) -> list[int]:
    """Return in order where names are: those kept and those from ``fresh`` on, each in order."""
    if not kept:
        return list(range(fresh, len(uniques)))
    order: list[int] = []
    begin = 0
    for at in range(fresh, len(uniques)):
        key = delivered(uniques[at])
        end = bisect(kept, key, begin, key=lambda other: delivered(uniques[other]))
        order += kept[begin:end]
        order.append(at)
        begin = end
    return order + kept[begin:]


def _pieces(uniques: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    return (uniques[at : at + _PIECE] for at in range(0, len(uniques), _PIECE))


def _are_usual(uniques: Sequence[bytes]) -> bool:
    return all(_USUAL.fullmatch(b"\0".join(piece) + b"\0") for piece in _pieces(uniques))
