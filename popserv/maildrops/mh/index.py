"""The index of an MH folder: its messages, as scans have found and counted them.

It is used by this session and later ones.  A scan reads only messages that no entry of the index
before has the file of.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Sequence
from hashlib import blake2b
from secrets import token_bytes
from typing import NamedTuple

from twisted.logger import Logger

from popserv.core.snapshot import Snapshot
from popserv.maildrops.file_times import TRUSTED_AGE
from popserv.maildrops.mh import index_file
from popserv.maildrops.mh.counting import Counting
from popserv.maildrops.mh.folder import (
    RETRY_DELAYS,
    FileKey,
    Times,
    check_gone,
    scan,
    still_changing,
)
from popserv.maildrops.mh.index_file import Entry, Version
from popserv.maildrops.path_problems import explain_in_directory
from popserv.maildrops.scans import Record, record_nothing
from popserv.messages.sizes import MakeDowngrader

_log = Logger()

SAVE_THRESHOLD = 50
"""The number of messages that are worth writing the index file for, to not count them again."""


class Index(NamedTuple):
    """The messages of a folder in the order of their numbers.

    ``messages`` is the snapshot for sessions.  ``times`` are those of the folder with which the
    index is valid; None means that the next session must scan the folder.  ``unsaved`` is the
    number of messages that were counted since the index file was written, and ``file_version`` the
    version of the file that has been read or written.  ``absent`` are entries of messages that were
    not found, or may not be read, and may be there again: of these, only the unique-ids are used.
    """

    entries: tuple[Entry, ...]
    messages: Snapshot
    times: Times | None
    unsaved: int
    file_version: Version = None
    absent: tuple[Entry, ...] = ()


def make_index(
    entries: Sequence[Entry],
    times: Times | None,
    unsaved: int,
    file_version: Version,
    absent: Iterable[Entry],
) -> Index:
    """Return an index of these entries."""
    uids = tuple(entry.uid for entry in entries)
    messages = Snapshot.from_sizes((entry.sizes for entry in entries), uids)
    return Index(tuple(entries), messages, times, unsaved, file_version, tuple(absent))


def read_index(
    folder: int,
    known: Index | None,
    downgrader: MakeDowngrader | None,
    record: Record = record_nothing,
    *,
    is_whole: bool,
) -> Index:
    """Scan an open folder and return its index; only new and changed messages are read.

    Messages that may not be read are left out, which is logged, unless the index must be whole.  If
    messages vanish, the folder is scanned again, for they may have got other numbers.  Without a
    ``known`` index, it is also scanned again until no rename can have gone unnoticed: a copy, which
    has none, must miss no message.

    Without a ``known`` index, that in the index file is used.  If another process has written the
    file since, unique-ids of new messages are taken from it.  Waits for the disk: call it in a
    thread.

    :raises OSError: the folder or a message cannot be read, or a message is listed and not found.
    """
    file_version = index_file.version(folder)
    entries: Iterable[Entry]
    others: list[Entry] = []
    if known is None:
        entries, is_counted = index_file.load(folder, index_file.kind_of_sizes(downgrader))
    else:
        entries, is_counted = known.entries, True
        others += known.absent
        if file_version != known.file_version:
            others += index_file.load(folder, index_file.NOT_COUNTED)[0]
    counting = Counting(folder, downgrader)
    for delay in RETRY_DELAYS:
        found = scan(folder)
        assignment = _Assignment(entries, is_counted, others, found.started)
        counting.count(
            {number: key for number, key in found.files.items() if not assignment.keep(number, key)}
        )
        vanished = [*found.missing, *counting.vanished]
        if not vanished and (found.is_settled or known is not None):
            break
        time.sleep(delay)
    else:
        check_gone(folder, vanished)
        _skip(folder, None, still_changing(), is_whole)
    for number, error in counting.unreadable.items():
        _skip(folder, b"%d" % number, error, is_whole)
    record(counting.total)
    unreadable = {found.files[number] for number in counting.unreadable}
    absent = assignment.add(counting.entries, unreadable)
    if found.is_settled and not vanished:
        # All others were removed.  A restored backup has other inodes.
        unread = {key[1:] for key in unreadable}
        absent = [entry for entry in absent if entry.key[1:] in unread]
    unsaved = len(counting.entries) + (known.unsaved if known is not None else 0)
    # They may become readable, or be found, although the folder does not change.
    times = None if counting.unreadable or vanished else found.times
    index = make_index(sorted(assignment.entries), times, unsaved, file_version, absent)
    if unsaved >= SAVE_THRESHOLD or assignment.has_new_random:
        return save_index(folder, index, downgrader)
    return index


def _skip(folder: int, name: bytes | None, error: OSError, is_whole: bool) -> None:
    """Log why a message is left out, or some of the folder may be; raise it if none must be."""
    if is_whole:
        raise error
    problem = explain_in_directory(error, folder, name)
    _log.warn("message skipped: {problem}", problem=problem)


def save_index(
    folder: int, index: Index, downgrader: MakeDowngrader | None, *, is_counted: bool = True
) -> Index:
    """Write the index file of an open folder, and return the index as one that is saved.

    Without ``is_counted``, its sizes are not used again, but for the unique-ids.  If the file
    cannot be written, that is logged, and the old one stays.
    """
    kind = index_file.kind_of_sizes(downgrader) if is_counted else index_file.NOT_COUNTED
    # No file has this inode, so that what is absent is counted when it is found.
    absent = [entry._replace(key=entry.key._replace(inode=0)) for entry in index.absent]
    try:
        index_file.save(folder, (*index.entries, *absent), kind)
    except OSError as error:
        problem = explain_in_directory(error, folder, index_file.NAME)
        _log.warn("index of an MH folder not written: {problem}", problem=problem)
    # After a failure as well, so that it is not repeated before there is more to save.
    return index._replace(unsaved=0, file_version=index_file.version(folder))


class _Assignment:
    """Assigns known entries, and with them unique-ids, to the files of a folder.

    ``others`` are entries of which only the unique-ids are known, for messages that are counted.
    """

    def __init__(
        self, known: Iterable[Entry], is_counted: bool, others: Iterable[Entry], started: int
    ) -> None:
        self._others = others
        self.entries: list[Entry] = []
        self.has_new_random = False
        self._trusted_before = started - TRUSTED_AGE
        self._is_counted = is_counted
        self._by_key: dict[FileKey, list[Entry]] = defaultdict(list)
        for entry in known:
            self._by_key[entry.key].append(entry)

    def keep(self, number: int, key: FileKey) -> bool:
        """Keep the entry of a file that has certainly not changed; return whether there is one."""
        if not self._is_counted or key.modified >= self._trusted_before:
            return False
        entries = self._by_key.get(key)
        if not entries:
            return False
        self.entries.append(entries.pop(0)._replace(number=number))
        return True

    def add(self, counted: Iterable[Entry], unreadable: Collection[FileKey]) -> list[Entry]:
        """Add entries that were counted, with the unique-ids of the same messages if known.

        A message is the same if its octets and its time are; the time is that of the file, which a
        restored backup has, too.  Entries of ``unreadable`` files are those of no other ones.  The
        known entries of which no file was counted are returned.
        """
        used = {entry.uid for entry in self.entries}
        unused = [entry for entries in self._by_key.values() for entry in entries]
        unused += self._others
        left = [*{entry.uid: entry for entry in reversed(unused) if entry.uid not in used}.values()]
        reserved = [entry for entry in left if entry.key in unreadable]
        left = [entry for entry in left if entry.key not in unreadable]
        # Of several that are the same, the file that has not moved comes first.
        for identity in (_key_and_octets, _time_and_octets):
            waiting: dict[Hashable, list[Entry]] = defaultdict(list)
            for entry in left:
                waiting[identity(entry)].append(entry)
            new = []
            for entry in counted:
                known = waiting[identity(entry)]
                if known:
                    self.entries.append(entry._replace(uid=known.pop().uid))
                else:
                    new.append(entry)
            left = [entry for entries in waiting.values() for entry in entries]
            counted = new
        left += reserved
        used = {entry.uid for entry in (*self.entries, *left)}
        for entry in counted:
            uid = entry.uid
            if uid in used:
                # A copy with the same octets and time.
                uid = blake2b(token_bytes(16), digest_size=16).hexdigest().encode("ascii")
                self.has_new_random = True
            used.add(uid)
            self.entries.append(entry._replace(uid=uid))
        return left[::-1]


def _key_and_octets(entry: Entry) -> Hashable:
    return entry.key, entry.digest


def _time_and_octets(entry: Entry) -> Hashable:
    return entry.key.modified, entry.digest
