"""What a disk has after a power loss at any time of a session that was recorded.

Only what was synced is certain: the octets of a file since fsync or fdatasync of the file, and its
name since fsync of its directory, where a rename is synced in both directories at once, as on file
systems with a journal.  Of the rest, everything, nothing, only the names, or any pages may be
there.
"""

import os
import struct
from pathlib import Path
from typing import NamedTuple

RECORD = struct.Struct("@IIIIq")
"""``struct record`` of ``shim.c``."""

WROTE, TRUNCATED, RENAMED, LINKED, REMOVED, MADE_DIRECTORY, SYNCED, CREATED, TIMES, REPLIED = range(
    10
)
"""What a record tells, as in ``shim.c``."""

_UNNAMED = " (deleted)"
"""The end of the path that the system shows for a file of O_TMPFILE, also after it has a name."""

PAGE = 4096
"""The octets that the system writes to a disk as a whole."""


class Record(NamedTuple):
    """A change that has succeeded, or what a client was told."""

    kind: int
    path: str
    to: str
    data: bytes
    offset: int


def read_records(path):
    """Return the records of a file that the shim has written, in order."""
    octets, at, records = Path(path).read_bytes(), 0, []
    while at < len(octets):
        kind, *lengths, offset = RECORD.unpack_from(octets, at)
        at += RECORD.size
        parts = []
        for length in lengths:
            parts.append(octets[at : at + length])
            at += length
        records.append(Record(kind, os.fsdecode(parts[0]), os.fsdecode(parts[1]), parts[2], offset))
    return records


class _File:
    """The octets of a file: those that are on disk, and the changes that may not be."""

    def __init__(self, octets=b"", modified=None):
        self.octets = octets
        self.modified = modified
        self.pending = []

    def with_changes(self, changes):
        """Return the octets after some of the changes."""
        if not changes:
            # All states share these octets, so that they are not copied.
            return self.octets
        octets = bytearray(self.octets)
        for offset, data in changes:
            if data is None:
                del octets[offset:]
                octets.extend(bytes(offset - len(octets)))
            else:
                octets.extend(bytes(max(0, offset - len(octets))))
                octets[offset : offset + len(data)] = data
        return bytes(octets)

    def with_some_pages(self, choose):
        """Return the octets if only some pages, and perhaps the length, are on disk.

        The length that a write has made is on disk after what was written; that of a truncation may
        be there before.
        """
        if not self.pending:
            return self.octets
        old, new = self.octets, self.with_changes(self.pending)
        truncations = [offset for offset, data in self.pending if data is None]
        length = choose.choice((len(old), len(new), *truncations))
        # The pages that must be on disk, if the length is that of a write.
        written = len(old) // PAGE * PAGE if length not in (len(old), *truncations) else length
        found = b""
        for at in range(0, length, PAGE):
            is_new = at >= written or choose.random() < 0.5
            page = new[at : at + PAGE] if is_new else b""
            page += old[at + len(page) : at + PAGE]
            found += page.ljust(PAGE, b"\0")
        return found[:length]

    def sync(self):
        """Write everything to the disk."""
        self.octets = self.with_changes(self.pending)
        self.pending = []


class Disk:
    """The files below a directory: their names are the paths; a directory has the value None."""

    def __init__(self, root):
        self._root = str(root)
        self._names = {self._root: None}
        for path in sorted(Path(root).rglob("*")):
            self._names[str(path)] = (
                None if path.is_dir() else _File(path.read_bytes(), path.stat().st_mtime_ns)
            )
        # What the system shows, and how it has come from what is on disk: for each change the
        # directories and the new values.
        self._shown = dict(self._names)
        self._pending = []

    def apply(self, record):
        """Carry out a recorded change."""
        file = self._shown.get(record.path)
        if record.kind == SYNCED:
            if file is None:
                self._sync_directory(record.path)
            else:
                file.sync()
        elif record.kind in (WROTE, TRUNCATED) and file:
            file.pending.append((record.offset, record.data if record.kind == WROTE else None))
        elif record.kind == TIMES and file:
            file.modified = record.offset
        elif record.kind == RENAMED:
            self._change({record.to: file, record.path: ...})
        elif record.kind == LINKED:
            self._change({record.to: file})
        elif record.kind == REMOVED:
            self._change({record.path: ...})
        elif record.kind == MADE_DIRECTORY:
            self._change({record.path: None})
        elif record.kind == CREATED:
            self._change({record.path: _File()})

    def _change(self, values):
        self._pending.append(({os.path.dirname(path) for path in values}, values))
        _update(self._shown, values)

    def _sync_directory(self, path):
        for directories, values in self._pending:
            if path in directories:
                _update(self._names, values)
        self._pending = [each for each in self._pending if path not in each[0]]

    def outcomes(self, choose):
        """Yield what may be on disk after a power loss now, as octets and times by path."""
        yield self._contents(self._names, lambda file: file.octets)
        if not self._pending and not any(file and file.pending for file in self._names.values()):
            return
        yield self._contents(self._shown, lambda file: file.octets)
        yield self._contents(self._shown, lambda file: file.with_changes(file.pending))
        names = dict(self._names)
        for _, values in self._pending[: choose.randint(0, len(self._pending))]:
            _update(names, values)
        yield self._contents(
            names,
            lambda file: file.with_some_pages(choose),
        )

    def _contents(self, names, octets):
        found = {}
        for path in sorted(names):
            file = names[path]
            if path.endswith(_UNNAMED):
                continue
            # What is in a directory that is not on disk is not there either.
            if path == self._root or os.path.dirname(path) in found:
                found[path] = None if file is None else (octets(file), file.modified)
        return found


def _update(names, values):
    for path, value in values.items():
        if value is ...:
            names.pop(path, None)
        else:
            names[path] = value


def restore(contents, rename):
    """Write the files of an outcome, each with the path that ``rename`` returns, if any."""
    for path, value in contents.items():
        new = rename(path)
        if new is None:
            continue
        if value is None:
            os.makedirs(new, exist_ok=True)
            continue
        octets, modified = value
        Path(new).write_bytes(octets)
        if modified is not None:
            os.utime(new, ns=(modified, modified))
