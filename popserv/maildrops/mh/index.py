"""The index of an MH folder: its messages, as scans have found and counted them.

It is used by this session and later ones.  A scan reads only messages that no entry of the index
before has the file of.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from hashlib import blake2b
from secrets import token_bytes
from typing import NamedTuple

from twisted.logger import Logger

from popserv.core.snapshot import Snapshot
from popserv.maildrops.file_times import TRUSTED_AGE
from popserv.maildrops.mh import index_file
from popserv.maildrops.mh.folder import FileKey, Times, check_gone, key_of, open_number, scan
from popserv.maildrops.mh.index_file import Entry, Version
from popserv.maildrops.path_problems import explain_in_directory
from popserv.maildrops.scans import Record, record_nothing
from popserv.messages.sizes import MakeDowngrader, measure

_log = Logger()

_CHUNK = 1 << 17

SAVE_THRESHOLD = 50
"""The number of messages that are worth writing the index file for, to not count them again."""


class Index(NamedTuple):
    """The messages of a folder in the order of their numbers.

    ``messages`` is the snapshot for sessions.  ``times`` are those of the folder with which the
    index is valid; None means that the next session must scan the folder.  ``unsaved`` is the
    number of messages that were counted since the index file was written, and ``file_version`` the
    version of the file that has been read or written.
    """

    entries: tuple[Entry, ...]
    messages: Snapshot
    times: Times | None
    unsaved: int
    file_version: Version = None


def make_index(
    entries: Sequence[Entry], times: Times | None, unsaved: int, file_version: Version
) -> Index:
    """Return an index of these entries."""
    uids = tuple(entry.uid for entry in entries)
    messages = Snapshot.from_sizes((entry.sizes for entry in entries), uids)
    return Index(tuple(entries), messages, times, unsaved, file_version)


def read_index(
    folder: int,
    known: Index | None,
    downgrader: MakeDowngrader | None,
    record: Record = record_nothing,
    *,
    is_whole: bool,
) -> Index:
    """Scan an open folder and return its index; only new and changed messages are read.

    Messages that may not be read, or cannot be found, are left out, unless the index must be whole.

    Without a ``known`` index, that in the index file is used.  If another process has written the
    file since, unique-ids of new messages are taken from it.  Waits for the disk: call it in a
    thread.

    :raises OSError: the folder or a message cannot be read.
    """
    file_version = index_file.version(folder)
    others: list[Entry] = []
    if known is None:
        entries, is_counted = index_file.load(folder, index_file.kind_of_sizes(downgrader))
    else:
        entries, is_counted = list(known.entries), True
        if file_version != known.file_version:
            others, _ = index_file.load(folder, index_file.NOT_COUNTED)
    found = scan(folder)
    assignment = _Assignment(entries, is_counted, others, found.started)
    unknown = []
    for number, key in found.files.items():
        if not assignment.keep(number, key):
            unknown.append(number)
    left_out = found.missing
    counted = []
    for number in unknown:
        try:
            entry = _count(folder, number, downgrader)
        except PermissionError as error:
            if is_whole:
                raise
            problem = explain_in_directory(error, folder, b"%d" % number)
            _log.warn("message skipped: {problem}", problem=problem)
            entry = None
        if entry is None:
            left_out.append(number)
        else:
            counted.append(entry)
    if is_whole:
        check_gone(folder, left_out)
    record(len(counted))
    assignment.add(counted)
    unsaved = len(counted) + (known.unsaved if known is not None else 0)
    # They may become readable, or be found, although the folder does not change.
    times = None if left_out else found.times
    index = make_index(sorted(assignment.entries), times, unsaved, file_version)
    if unsaved >= SAVE_THRESHOLD or assignment.has_new_random:
        return save_index(folder, index, downgrader)
    return index


def save_index(
    folder: int, index: Index, downgrader: MakeDowngrader | None, *, is_counted: bool = True
) -> Index:
    """Write the index file of an open folder, and return the index as one that is saved.

    Without ``is_counted``, its sizes are not used again, but for the unique-ids.  If the file
    cannot be written, that is logged, and the old one stays.
    """
    kind = index_file.kind_of_sizes(downgrader) if is_counted else index_file.NOT_COUNTED
    try:
        index_file.save(folder, index.entries, kind)
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

    def add(self, counted: Iterable[Entry]) -> None:
        """Add entries that were counted, with the unique-ids of the same messages if known.

        A message is the same if its octets and its time are; the time is that of the file, which a
        restored backup has, too.
        """
        used = {entry.uid for entry in self.entries}
        left = [entry for entries in self._by_key.values() for entry in entries]
        left += [entry for entry in self._others if entry.uid not in used]
        # Of several that are the same, the file that has not moved comes first.
        for identity in (_key_and_octets, _time_and_octets):
            waiting: dict[Hashable, list[Entry]] = defaultdict(list)
            for entry in reversed(left):
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
        used = {entry.uid for entry in self.entries}
        for entry in counted:
            uid = entry.uid
            if uid in used:
                # A copy with the same octets and time.
                uid = blake2b(token_bytes(16), digest_size=16).hexdigest().encode("ascii")
                self.has_new_random = True
            used.add(uid)
            self.entries.append(entry._replace(uid=uid))


def _key_and_octets(entry: Entry) -> Hashable:
    return entry.key, entry.digest


def _time_and_octets(entry: Entry) -> Hashable:
    return entry.key.modified, entry.digest


def _count(folder: int, number: int, downgrader: MakeDowngrader | None) -> Entry | None:
    """Count a message, and calculate its unique-id; return None if there is no file."""
    fd = open_number(folder, number)
    if fd is None:
        return None
    try:
        return count_file(fd, number, downgrader)
    except OSError as error:
        error.filename = b"%d" % number
        raise
    finally:
        os.close(fd)


def count_file(fd: int, number: int, downgrader: MakeDowngrader | None) -> Entry:
    """Count an open message, read from its start, and calculate its unique-id.

    :raises OSError: it cannot be read.
    """
    key = key_of(os.fstat(fd))
    content = blake2b(digest_size=16)
    sizes = measure(_read(fd, content.update), downgrader)
    digest = content.hexdigest().encode("ascii")
    uid = blake2b(b"%d %b" % (key.modified, digest), digest_size=16).hexdigest()
    return Entry(number, key, sizes, digest, uid.encode("ascii"))


def _read(fd: int, update: Callable[[bytes], None]) -> Iterator[bytes]:
    while chunk := os.read(fd, _CHUNK):
        update(chunk)
        yield chunk
