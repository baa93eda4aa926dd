"""Counting the messages of an MH folder: their sizes, digests, and the unique-ids that follow."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from hashlib import blake2b

from popserv.maildrops.mh.folder import FileKey, key_of, open_number
from popserv.maildrops.mh.index_file import Entry
from popserv.messages.sizes import MAX_MESSAGE, MakeDowngrader, Sizes, measure
from popserv.runtime.closing import close

_CHUNK = 1 << 17


class Counting:
    """The messages of an open folder that are counted, each once whatever number it gets meanwhile.

    :ivar entries: those of the files that were to be counted last.
    :ivar vanished: the numbers of those that were not found, or are those of other files now.
    :ivar unreadable: the errors of those that may not be read, by their numbers.
    """

    def __init__(self, folder: int, downgrader: MakeDowngrader | None) -> None:
        self._folder = folder
        self._downgrader = downgrader
        self._counted: dict[FileKey, Entry] = {}
        self.entries: list[Entry] = []
        self.vanished: list[int] = []
        self.unreadable: dict[int, PermissionError] = {}

    @property
    def total(self) -> int:
        """How many messages were read."""
        return len(self._counted)

    def count(self, files: Mapping[int, FileKey]) -> None:
        """Count these files, but for those that have been.

        :raises OSError: one cannot be read, but for want of permission; the error has the name.
        """
        self.entries, self.vanished, self.unreadable = [], [], {}
        for number, key in files.items():
            if key not in self._counted:
                try:
                    self._count(number)
                except PermissionError as error:
                    self.unreadable[number] = error
                    continue
            if key in self._counted:
                self.entries.append(self._counted[key]._replace(number=number))
            else:
                self.vanished.append(number)

    def _count(self, number: int) -> None:
        fd = open_number(self._folder, number)
        if fd is None:
            return
        try:
            entry = count_file(fd, number, self._downgrader)
        except OSError as error:
            error.filename = b"%d" % number
            raise
        finally:
            close(fd)
        self._counted[entry.key] = entry


def count_file(fd: int, number: int, downgrader: MakeDowngrader | None) -> Entry:
    """Count an open message, read from its start, and calculate its unique-id.

    One that is too large has 0 octets, and the unique-id of an empty one.

    :raises OSError: it cannot be read.
    """
    key = key_of(os.fstat(fd))
    content = blake2b(digest_size=16)
    sizes = Sizes(0, None)
    if key.length <= MAX_MESSAGE:
        sizes = measure(_read(fd, key.length, content.update), downgrader)
    digest = content.hexdigest().encode("ascii")
    uid = blake2b(b"%d %b" % (key.modified, digest), digest_size=16).hexdigest()
    return Entry(number, key, sizes, digest, uid.encode("ascii"))


def _read(fd: int, length: int, update: Callable[[bytes], None]) -> Iterator[bytes]:
    # It may grow, to any length.
    while chunk := os.read(fd, min(length, _CHUNK)):
        length -= len(chunk)
        update(chunk)
        yield chunk
