"""The index of a maildrop: its messages, as scans have found and counted them.

It is used by this session and later ones.  It is first read from the size file, if there is one,
and then brought up to date by scans, which count only messages that are new.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import NamedTuple

from popserv.core.snapshot import Snapshot, select
from popserv.maildrops.cached_open import NotCached
from popserv.maildrops.maildir.folders import MAX_SCANS, Folders, Scan, Times
from popserv.maildrops.maildir.listing import size_file
from popserv.maildrops.maildir.listing.base_names import merge_order, sort_base_names, unique_ids
from popserv.maildrops.maildir.listing.counting import Counts, count_messages
from popserv.maildrops.maildir.listing.duplicates import Known, Separation, separate
from popserv.maildrops.scans import Record, record_nothing
from popserv.messages.sizes import MakeDowngrader

SAVE_THRESHOLD = 50
"""The number of messages whose sizes are worth a size file, or worth rewriting it.

In a maildrop of more than 5000 messages it is one message in 100 instead.
"""

MAX_CACHED_MESSAGES = 500
"""The maximum number of messages whose index is brought up to date without a thread."""

MAX_CACHED_COUNTS = 20
"""The maximum number of messages that are counted without a thread, which takes 0.5 ms."""

_NO_FILE = (b"", 0)


class SizeFileState:
    """The state of a maildrop's size file, by which the server decides when to rewrite it.

    ``messages`` is the number of messages in it, 0 without a file; ``unsaved`` the number of
    messages counted since that it does not have; ``has_times`` whether it has the folders' times.
    """

    __slots__ = ("has_times", "messages", "unsaved")

    def __init__(self, messages: int = 0, has_times: bool = False) -> None:
        self.messages = messages
        self.has_times = has_times
        self.unsaved = 0


class View(NamedTuple):
    """The messages of an index as sessions see them, in columns: in their order, with unique-ids.

    Some may be left out.
    """

    base_names: tuple[bytes, ...]
    locations: tuple[bytes, ...]
    stamps: array[int]
    messages: Snapshot


class Index(NamedTuple):
    """The messages of a maildrop, in columns with one value for each, in delivery order.

    ``messages`` is the snapshot for sessions, whose downgraded forms ``downgrader`` has measured;
    without one there are none.  ``times`` are the folders' times with which the index is still
    valid; None means that the next session must list all folders.  ``can_open_cached`` tells
    whether the next session may open the folders without a thread.  ``duplicates`` has, for each
    message whose file could not be renamed, the base name of that file.

    ``view`` is None if sessions see the columns of the index.  It depends on the versions
    ``id_versions`` of files with unique-ids; None means that these must be read again.
    """

    base_names: tuple[bytes, ...]
    locations: tuple[bytes, ...]
    stamps: array[int]
    messages: Snapshot
    downgrader: MakeDowngrader | None
    times: Times | None
    can_open_cached: bool
    size_file_state: SizeFileState
    duplicates: Mapping[bytes, bytes] = {}
    view: View | None = None
    id_versions: tuple[tuple[int, ...] | None, ...] | None = None

    @property
    def all_times(self) -> Times | None:
        """The folders' times if each folder has them, else None."""
        times = self.times
        return None if times is None or any(len(folder) == 1 for folder in times) else times

    def is_worth_saving(self) -> bool:
        """Return whether the size file should be rewritten or, without messages, removed."""
        messages = len(self.base_names)
        state = self.size_file_state
        return not self.duplicates and (
            state.unsaved >= max(SAVE_THRESHOLD, messages // 100)
            or state.messages >= max(SAVE_THRESHOLD, 2 * messages)
            or (state.messages > 0 and not state.has_times and self.all_times is not None)
        )

    def save(self, maildir_fd: int) -> None:
        """Write the size file of an open Maildir, or remove it if there are no messages.

        Failures are ignored.  Waits for the disk: call it in a thread.
        """
        if self.base_names:
            size_file.save(
                maildir_fd,
                size_file.Contents(
                    self.base_names,
                    self.locations,
                    self.messages.octets,
                    self.stamps,
                    None if self.downgrader is None else self.messages.downgraded,
                    self.messages.header_only,
                    self.all_times,
                ),
            )
        else:
            size_file.remove(maildir_fd)
        # After a failure as well, so that it is not repeated before there is more to save.
        state = self.size_file_state
        state.unsaved = 0
        state.messages = len(self.base_names)
        state.has_times = self.all_times is not None


def empty_index(downgrader: MakeDowngrader | None, state: SizeFileState | None = None) -> Index:
    """Return an index without messages, from which everything is counted."""
    return Index((), (), array("Q"), Snapshot(), downgrader, None, False, state or SizeFileState())


def load_index(maildir_fd: int, downgrader: MakeDowngrader | None) -> Index:
    """Return the index in the size file of an open Maildir, or an empty one.

    A file is used only if it has downgraded forms just when there is a downgrader.

    Waits for the disk: call it in a thread.
    """
    contents = size_file.load(maildir_fd)
    if contents is None or (contents.downgraded is None) != (downgrader is None):
        return empty_index(downgrader)
    base_names = tuple(contents.base_names)
    uids = unique_ids(base_names)
    return Index(
        base_names,
        tuple(contents.locations),
        contents.stamps,
        Snapshot(contents.octets, uids, contents.downgraded, contents.header_only),
        downgrader,
        contents.times,
        False,
        SizeFileState(len(base_names), contents.times is not None),
    )


def update_index(
    folders: Folders,
    index: Index,
    record: Record = record_nothing,
    *,
    texts: dict[bytes, bytes] | None = None,
    may_rename: bool = True,
) -> Index:
    """Scan the folders and return an index of the messages found; only new ones are counted.

    Waits for the disk unless it is called with ``texts``: call it in a thread.  ``texts`` gets the
    messages that were counted, by their base names.

    :raises OSError: a folder or a message cannot be read.
    :raises NotCached: with ``texts``, a folder or a message may have to be read from a disk, or
        this would take long.
    """
    cached = texts is not None
    if cached and len(index.base_names) > MAX_CACHED_MESSAGES:
        raise NotCached
    counted = 0
    for _ in range(MAX_SCANS):
        scan = folders.scan(index.times, cached=cached)
        if scan.unlisted and (
            scan.duplicates or index.duplicates or _are_listed_elsewhere(index, scan)
        ):
            scan = folders.scan(cached=cached)
        if cached and (scan.duplicates or index.duplicates):
            raise NotCached
        separation = _separate_duplicates(folders, scan, index, may_rename)
        # The messages that remain in scan.files are new.
        locations = [scan.files.pop(base_name, _NO_FILE)[0] for base_name in index.base_names]
        if scan.unlisted:
            locations = [
                before if before[0] in scan.unlisted else location
                for before, location in zip(index.locations, locations, strict=True)
            ]
        new = sort_base_names(list(scan.files))
        if cached and len(new) > MAX_CACHED_COUNTS:
            raise NotCached
        counts = count_messages(
            folders, new, scan, separation.unrenamed, index.downgrader, cached=cached
        )
        counted += len(counts.base_names)
        if texts is not None:
            texts.update(counts.texts)
        index = _merge(index, locations, counts)
        index = index._replace(duplicates=separation.unrenamed)
        if not (counts.vanished or separation.vanished):
            break
    record(counted)
    # A message that was skipped may become readable, or be found, although no folder changes.
    is_final = separation.is_final and not (counts.vanished or counts.unreadable)
    times = scan.times if is_final else None
    return index._replace(times=times, can_open_cached=cached or folders.are_local())


def _are_listed_elsewhere(index: Index, scan: Scan) -> bool:
    """Return whether a message in an unlisted folder has the base name of a file in another."""
    columns = zip(index.base_names, index.locations, strict=True)
    return any(at[0] in scan.unlisted and base_name in scan.files for base_name, at in columns)


def _separate_duplicates(
    folders: Folders, scan: Scan, index: Index, may_rename: bool
) -> Separation:
    if not (scan.duplicates or index.duplicates):
        return Separation({}, False, True)
    wanted = {*scan.duplicates, *index.duplicates, *index.duplicates.values()}
    known = {
        base_name: Known(index.stamps[at], index.locations[at])
        for at, base_name in enumerate(index.base_names)
        if base_name in wanted
    }
    return separate(folders, scan, known, index.duplicates, may_rename=may_rename)


def _merge(index: Index, locations: list[bytes], counts: Counts) -> Index:
    """Return an index with the messages that were counted and those that still exist.

    ``locations`` are the present ones of the index's messages, empty for those that vanished.
    """
    index.size_file_state.unsaved += len(counts.base_names)
    new = tuple(counts.base_names)
    kept = [at for at, location in enumerate(locations) if location]
    if not new and len(kept) == len(locations):
        return index._replace(locations=tuple(locations))
    messages = Snapshot(counts.octets, unique_ids(new), counts.downgraded, counts.header_only)
    # Tuples of bytes, which the garbage collector does not traverse again and again.
    appended = tuple(counts.locations)
    if not kept:
        return index._replace(
            base_names=new, locations=appended, stamps=counts.stamps, messages=messages
        )
    base_names = (*index.base_names, *new)
    order = merge_order(kept, base_names, len(index.base_names))
    return index._replace(
        base_names=select(base_names, order),
        locations=select((*locations, *appended), order),
        stamps=select(index.stamps + counts.stamps, order),
        messages=index.messages.updated(messages.sizes(), messages.uids, order),
    )
