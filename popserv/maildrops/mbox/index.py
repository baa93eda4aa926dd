"""The index of an mbox file: its messages, as they were when it was last read.

It is used by this session and later ones.  If the file has only grown, what was appended is read,
and the last message before it.
"""

from __future__ import annotations

import os
import time
from array import array
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from operator import sub
from typing import NamedTuple

from popserv.core.snapshot import Message, Snapshot, select
from popserv.maildrops.file_times import CLOCK_TICK, FILE_CLOCK, TRUSTED_AGE
from popserv.maildrops.mbox.parser import Entry, Format, NotAnMbox, parse
from popserv.maildrops.mbox.unique_ids import assign_unique_ids
from popserv.maildrops.mbox.window import Window
from popserv.maildrops.scans import Record, record_nothing
from popserv.messages.sizes import MakeDowngrader

_SECOND = 10**9


class Identity(NamedTuple):
    """What tells that a file is the same, unchanged: its device, inode, length and times."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Identity:
        """Return the identity of a file."""
        return cls(
            status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        )

    def may_have_grown_to(self, other: Identity) -> bool:
        """Return whether the other may be the same file, with more at its end."""
        return self[:2] == other[:2] and self.size < other.size

    def is_settled(self) -> bool:
        """Return whether any write from now on gives the file another time of modification."""
        age = CLOCK_TICK if self.ctime_ns % _SECOND else TRUSTED_AGE
        return self.mtime_ns + age < time.clock_gettime_ns(FILE_CLOCK)


class Index(NamedTuple):
    """The messages of an mbox file, in columns with one value for each.

    ``identity`` is that of the file; if not ``is_settled``, a change may not have altered it.
    ``is_whole`` tells whether the whole file was read since its last change.
    ``offsets`` are those of the From_ lines, ``starts`` and ``ends`` those of the messages, and
    ``nexts`` those of the next From_ lines.  ``marks`` are the digests and the X-UIDLs that
    identify the messages, ``read`` tells which of them have R in Status, and ``delivered`` the
    times in their From_ lines, in seconds since 1970, or 0.
    """

    identity: Identity
    is_settled: bool
    is_whole: bool
    offsets: array[int]
    starts: array[int]
    ends: array[int]
    nexts: array[int]
    marks: tuple[tuple[bytes, bytes], ...]
    read: bytes
    delivered: array[int]
    messages: Snapshot

    def last_read(self) -> Message | None:
        """Return the last message that has R in Status, or None if there is none."""
        position = self.read.rfind(b"\1")
        return None if position < 0 else self.messages[position]

    def first(self, count: int) -> Index:
        """Return the index of the first messages alone, as if the others were appended later."""
        end = self.nexts[count - 1] if count else 0
        return _append(self, count, self.identity._replace(size=end), False, [])


_NO_COLUMN = array("Q")
_NOTHING = Index(
    identity=Identity(0, 0, 0, 0, 0),
    is_settled=False,
    is_whole=False,
    offsets=_NO_COLUMN,
    starts=_NO_COLUMN,
    ends=_NO_COLUMN,
    nexts=_NO_COLUMN,
    marks=(),
    read=b"",
    delivered=_NO_COLUMN,
    messages=Snapshot(),
)


def read_index(
    fd: int,
    mbox_format: Format,
    downgrader: MakeDowngrader | None,
    known: Index | None = None,
    record: Record = record_nothing,
    touch: Callable[[], object] = lambda: None,
) -> Index:
    """Return the index of an open and locked file.

    ``known`` is an earlier index.  If the file has only grown since, what was appended is read.
    ``touch`` is called from time to time.

    Waits for the disk: call it in a thread.

    :raises NotAnMbox: it does not start with a From_ line.
    :raises OSError: it cannot be read.
    """
    identity = Identity.of(os.fstat(fd))
    is_settled = identity.is_settled()
    window = Window(fd, identity.size, touch)
    if known is not None and known.marks and known.identity.may_have_grown_to(identity):
        # What was appended may belong to the message that was the last one.
        last = len(known.marks) - 1
        entries = parse(window, known.offsets[last], mbox_format, downgrader)
        with suppress(NotAnMbox):
            first = next(entries, None)
            if first is not None and first.digest == known.marks[last][0]:
                appended = [first, *entries]
                record(len(appended))
                return _append(known, last, identity, is_settled, appended)
    found = [*parse(window, 0, mbox_format, downgrader)]
    record(len(found))
    return _append(_NOTHING, 0, identity, is_settled, found)


def _append(
    known: Index, kept: int, identity: Identity, is_settled: bool, entries: Sequence[Entry]
) -> Index:
    """Return an index of the first ``kept`` messages of another one, and of these messages."""
    offsets, starts, ends, nexts, digests, x_uidls, read, delivered, sizes = (
        zip(*entries, strict=True) if entries else [()] * len(Entry._fields)
    )
    marks = tuple(zip(digests, x_uidls, strict=True))
    uids = assign_unique_ids(marks, known.messages.uids[:kept])
    order = [*range(kept), *range(len(known.messages), len(known.messages) + len(entries))]
    return Index(
        identity,
        is_settled,
        not kept,
        known.offsets[:kept] + array("Q", offsets),
        known.starts[:kept] + array("Q", starts),
        known.ends[:kept] + array("Q", ends),
        known.nexts[:kept] + array("Q", nexts),
        (*known.marks[:kept], *marks),
        known.read[:kept] + bytes(read),
        known.delivered[:kept] + array("Q", delivered),
        known.messages.updated(sizes, tuple(uids), order),
    )


def without(index: Index, removed: Sequence[int], identity: Identity) -> Index:
    """Return the index of a file from which messages were removed, and nothing else."""
    gone = set(removed)
    order = [at for at in range(len(index.marks)) if at not in gone]
    shifts = array("Q")
    shift = 0
    for at, (start, end) in enumerate(zip(index.offsets, index.nexts, strict=True)):
        if at in gone:
            shift += end - start
        else:
            shifts.append(shift)

    def shifted(column: array[int]) -> array[int]:
        return array("Q", map(sub, select(column, order), shifts))

    return Index(
        identity,
        identity.is_settled(),
        index.is_whole,
        shifted(index.offsets),
        shifted(index.starts),
        shifted(index.ends),
        shifted(index.nexts),
        select(index.marks, order),
        bytes(index.read[at] for at in order),
        select(index.delivered, order),
        index.messages.updated((), (), order),
    )


def find_messages(before: Index, after: Index, wanted: Collection[int]) -> dict[int, int]:
    """Return the positions in another index of the same file, by those in the first.

    Messages that are missing are left out.  Of equal messages the first ones correspond.
    """
    all_old, all_new = _by_digest(before), _by_digest(after)
    found: dict[int, int] = {}
    for digest in {before.marks[at][0] for at in wanted}:
        found.update(zip(all_old[digest], all_new[digest], strict=False))
    return {at: found[at] for at in wanted if at in found}


def find_removable(before: Index, after: Index, wanted: Collection[int]) -> list[int]:
    """Return the positions in another index of the same file of messages to remove.

    If some of equal messages are missing, those to remove are missing first: as many of them
    remain as were to be kept.
    """
    found: list[int] = []
    all_old, all_new = _by_digest(before), _by_digest(after)
    for digest in {before.marks[at][0] for at in wanted}:
        old, new = all_old[digest], all_new[digest]
        if len(old) <= len(new):
            found += [new[rank] for rank, at in enumerate(old) if at in wanted]
        else:
            kept = sum(at not in wanted for at in old)
            found += new[: max(0, len(new) - kept)]
    return sorted(found)


def _by_digest(index: Index) -> dict[bytes, list[int]]:
    positions = defaultdict(list)
    for at, (digest, _) in enumerate(index.marks):
        positions[digest].append(at)
    return positions
