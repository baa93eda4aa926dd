"""The base names of messages: how they are ordered, and their unique-ids.

A *base name* is the file name of a message without its info suffix.  A maildrop may hold a million,
so everything here works in batches: no single call holds the interpreter lock, and so stops other
threads, for more than a few milliseconds.
"""

from __future__ import annotations

import re
from bisect import bisect, bisect_left
from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from operator import lt

from popserv.core.snapshot import valid_unique_id
from popserv.maildrops.maildir.file_names import split_name

_BATCH = 4096
_SAMPLE_STEP = 512

# Nearly all base names: their byte order is their delivery order, and they are valid unique-ids.
_TYPICAL = re.compile(rb"(?:[0-9]{10}\.[!-~]{0,59}\0)*")


def delivery_order(base_name: bytes) -> tuple[int, bytes]:
    """Return the sort key of a base name: its delivery time in seconds, then the name.

    The delivery time is the number before the first dot; it is 0 if that is not a decimal
    number of fewer than 20 digits.
    """
    seconds = base_name.partition(b".")[0]
    return int(seconds) if seconds.isdigit() and len(seconds) < 20 else 0, base_name


def sort_base_names(base_names: Sequence[bytes]) -> list[bytes]:
    """Return base names in delivery order."""
    if not _are_typical(base_names):
        batches = (sorted(batch, key=delivery_order) for batch in _batches(base_names))
        return list(merge(*batches, key=delivery_order))
    runs = [sorted(batch) for batch in _batches(base_names)]
    samples = sorted(name for run in runs for name in run[::_SAMPLE_STEP])
    ordered: list[bytes] = []
    begins = [0] * len(runs)
    for bound in samples[_BATCH // _SAMPLE_STEP :: _BATCH // _SAMPLE_STEP]:
        ends = [bisect_left(run, bound, at) for run, at in zip(runs, begins, strict=True)]
        ordered += _merge_slices(runs, begins, ends)
        begins = ends
    return ordered + _merge_slices(runs, begins, [len(run) for run in runs])


def _merge_slices(runs: list[list[bytes]], begins: list[int], ends: list[int]) -> list[bytes]:
    # Each slice is sorted already, and sorted() merges sorted runs.
    return sorted(
        base_name
        for run, begin, end in zip(runs, begins, ends, strict=True)
        for base_name in run[begin:end]
    )


def are_sorted(base_names: Sequence[bytes]) -> bool:
    """Return whether base names are in delivery order, without duplicates."""
    keys = base_names if _are_typical(base_names) else list(map(delivery_order, base_names))
    return all(
        all(map(lt, keys[at : at + _BATCH], keys[at + 1 : at + 1 + _BATCH]))
        for at in range(0, len(keys), _BATCH)
    )


def have_info(base_names: Iterable[bytes], locations: Iterable[bytes]) -> bool:
    """Return whether a base name at a location without an info suffix ends with one."""
    columns = zip(base_names, locations, strict=True)
    return any(not location[1:] and split_name(name)[1] for name, location in columns)


def unique_ids(base_names: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Return the unique-id of each base name (RFC 1725 section 7).

    If every base name is a valid unique-id of the typical form, returns the same tuple.
    """
    return base_names if _are_typical(base_names) else tuple(map(valid_unique_id, base_names))


def merge_order(kept: list[int], base_names: Sequence[bytes], first_new: int) -> list[int]:
    """Return the positions of kept and new base names, merged into delivery order.

    ``kept`` has the positions of the base names that are kept.  All from position ``first_new``
    on are new.  Both must be in delivery order.
    """
    if not kept:
        return list(range(first_new, len(base_names)))
    order: list[int] = []
    begin = 0
    for at in range(first_new, len(base_names)):
        key = delivery_order(base_names[at])
        end = bisect(kept, key, begin, key=lambda other: delivery_order(base_names[other]))
        order += kept[begin:end]
        order.append(at)
        begin = end
    return order + kept[begin:]


def _batches(base_names: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    return (base_names[at : at + _BATCH] for at in range(0, len(base_names), _BATCH))


def _are_typical(base_names: Sequence[bytes]) -> bool:
    return all(_TYPICAL.fullmatch(b"\0".join(batch) + b"\0") for batch in _batches(base_names))
