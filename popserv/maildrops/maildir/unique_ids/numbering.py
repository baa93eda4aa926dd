"""The unique-ids of an index's messages, and the order in which sessions see them."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from typing import NamedTuple

from twisted.logger import Logger

from popserv.core.snapshot import Snapshot, is_unique_id, select
from popserv.maildrops.maildir.folders import FOLDER_NAMES
from popserv.maildrops.maildir.listing.index import Index, View
from popserv.maildrops.maildir.small_files import Version, is_settled, version
from popserv.maildrops.maildir.unique_ids import courier_sizelist, dovecot_uidlist, pinned_file
from popserv.maildrops.maildir.unique_ids.format import Source, UniqueIdFormat
from popserv.maildrops.path_problems import explain_change

_log = Logger()

_DAY = 24 * 60 * 60

_LAST = 1 << 32
"""The order of messages that have none: after all others."""

_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
"""Errors of a Maildir in which nothing can be written, today or tomorrow."""

_FILE_NAMES = {
    Source.NONE: (pinned_file.NAME,),
    Source.DOVECOT: (pinned_file.NAME, dovecot_uidlist.NAME),
    Source.COURIER: (pinned_file.NAME, courier_sizelist.NAME),
}


class _Listed(NamedTuple):
    """What the file of another server has: unique-ids by base name, and sort keys for an order."""

    unique_ids: Mapping[bytes, bytes]
    order: Mapping[bytes, tuple[int, int]]
    version: Version
    hidden: frozenset[bytes] = frozenset()


class Numbering:
    """Gives messages unique-ids in one format."""

    def __init__(self, unique_id_format: UniqueIdFormat) -> None:
        self._format = unique_id_format
        self._names = _FILE_NAMES[unique_id_format.source]
        # Nothing but pins can change what the index itself has.
        self._is_plain = unique_id_format.is_plain

    def is_current(
        self, maildir_fd: int, index: Index, *, is_unchanged: bool, cached: bool = False
    ) -> bool:
        """Return whether an index has the view that :meth:`apply` would give it.

        ``is_unchanged`` tells that its messages are those of the last session.  With ``cached``
        this does not wait for a disk.

        :raises OSError: a file cannot be examined; with ``cached``, call it again in a thread.
        """
        if index.id_versions is None:
            return False
        if index.view is None:
            return is_unchanged or index.id_versions == self._versions(maildir_fd, cached)
        return is_unchanged and index.id_versions == self._versions(maildir_fd, cached)

    def _versions(self, maildir_fd: int, cached: bool) -> tuple[Version, ...]:
        return tuple(version(name, maildir_fd, cached=cached) for name in self._names)

    def apply(self, maildir_fd: int, index: Index, *, save: bool) -> Index:
        """Return an index with its view for sessions; the Maildir's lock is held.

        Without ``save`` nothing is written; the format must be a plain one.

        Waits for the disk: call it in a thread.

        :raises OSError: a file with unique-ids cannot be read, or is damaged.
        """
        pins, pins_version = pinned_file.load(maildir_fd)
        if self._is_plain and not pins.unique_ids:
            return index._replace(view=None, id_versions=(pins_version,))
        listed = self._read_list(maildir_fd, index, pins.unique_ids)
        unique_ids, new_pins = self._choose(index.base_names, pins.unique_ids, listed)
        after = pins
        times = index.all_times
        # A message may be in a folder that is away, or be overlooked while it is renamed.
        if times is not None and len(times) == len(FOLDER_NAMES):
            after = pins.without_removed(set(index.base_names), int(time.time()) // _DAY)
        if new_pins:
            after = after._replace(unique_ids={**after.unique_ids, **new_pins})
        if after != pins and save:
            try:
                pins_version = pinned_file.save(maildir_fd, after)
            except OSError as error:
                problem = explain_change(error, maildir_fd, error.filename)
                _log.warn("unique-ids cannot be pinned: {problem}", problem=problem)
                if listed.version is not None and error.errno not in _UNWRITABLE:
                    # The other server may number them before they can be pinned.
                    listed = listed._replace(hidden=listed.hidden | new_pins.keys())
                    unique_ids = [
                        b"" if name in new_pins else unique_id
                        for name, unique_id in zip(index.base_names, unique_ids, strict=True)
                    ]
        versions = (pins_version, listed.version)[: len(self._names)]
        # What was written just now is not settled.
        is_final = after == pins and not listed.hidden and all(map(is_settled, versions))
        return index._replace(
            view=_view(index, unique_ids, listed),
            id_versions=versions if is_final else None,
        )

    def _read_list(self, maildir_fd: int, index: Index, pins: Mapping[bytes, bytes]) -> _Listed:
        if self._format.source is Source.DOVECOT:
            return self._read_dovecot(maildir_fd, index, pins)
        if self._format.source is Source.COURIER:
            unique_ids, read = courier_sizelist.load(maildir_fd)
            return _Listed(unique_ids or {}, {}, read)
        return _Listed({}, {}, None)

    def _read_dovecot(self, maildir_fd: int, index: Index, pins: Mapping[bytes, bytes]) -> _Listed:
        """Return Dovecot's unique-ids; new messages are added to its list."""
        uids, read = dovecot_uidlist.load(maildir_fd)
        if uids is None:
            return _Listed({}, {}, read)
        known = uids.records.keys() | pins.keys()
        new = [name for name in index.base_names if name not in known]
        hidden: frozenset[bytes] = frozenset()
        if new:
            try:
                dovecot_uidlist.assign(maildir_fd, new)
            except dovecot_uidlist.ListLocked:
                hidden = frozenset(new)
            except OSError as error:
                problem = explain_change(error, maildir_fd, error.filename or dovecot_uidlist.NAME)
                _log.warn("no UIDs assigned to new messages: {problem}", problem=problem)
            uids, read = dovecot_uidlist.load(maildir_fd)
            if uids is None:
                return _Listed({}, {}, read)
        unique_ids: dict[bytes, bytes] = {}
        order: dict[bytes, tuple[int, int]] = {}
        for name in index.base_names:
            record = uids.records.get(name)
            if record is not None:
                order[name] = (_LAST if record.order is None else record.order, record.uid)
                unique_id = self._format.of_record(record, uids.validity, name)
                if unique_id is not None:
                    unique_ids[name] = unique_id
        return _Listed(unique_ids, order, read, hidden - uids.records.keys())

    def _choose(
        self, base_names: tuple[bytes, ...], pins: Mapping[bytes, bytes], listed: _Listed
    ) -> tuple[list[bytes], dict[bytes, bytes]]:
        """Return the unique-id of each message, and those that must be pinned."""
        taken = set(pins.values())
        chosen: dict[bytes, bytes] = {}
        for name in base_names:
            if name in pins:
                chosen[name] = pins[name]
                continue
            listed_id = listed.unique_ids.get(name, b"")
            if is_unique_id(listed_id) and listed_id not in taken:
                taken.add(listed_id)
                chosen[name] = listed_id
        is_live = self._format.source is not Source.NONE
        new_pins: dict[bytes, bytes] = {}
        for name, own in zip(base_names, self._format.own(base_names), strict=True):
            if name in chosen or name in listed.hidden:
                continue
            unique_id = next(each for each in _own_ids(name, own) if each not in taken)
            taken.add(unique_id)
            chosen[name] = unique_id
            if is_live or unique_id != own:
                new_pins[name] = unique_id
        return [chosen.get(name, b"") for name in base_names], new_pins


def _own_ids(base_name: bytes, own: bytes) -> Iterator[bytes]:
    """Yield a message's own unique-id, and others for the case that it is taken."""
    yield own
    digest = blake2b(digest_size=20)
    while True:
        digest.update(base_name + b"\0")
        yield digest.hexdigest().encode("ascii")


def _view(index: Index, unique_ids: list[bytes], listed: _Listed) -> View:
    """Return what sessions see of an index."""
    names = index.base_names
    positions: Iterable[int] = range(len(names))
    if listed.hidden:
        positions = [at for at in positions if unique_ids[at]]
    if listed.order:
        none = (_LAST, _LAST)
        positions = sorted(positions, key=lambda at: (listed.order.get(names[at], none), at))
    order = list(positions)
    uids = tuple(unique_ids[at] for at in order)
    messages = index.messages
    locations, stamps = index.locations, index.stamps
    if order != list(range(len(names))):
        # Otherwise the stamps are shared with the index, which learns of those that change.
        messages = messages.updated((), (), order)
        names, locations, stamps = (
            select(names, order),
            select(locations, order),
            select(stamps, order),
        )
    return View(
        names,
        locations,
        stamps,
        Snapshot(messages.octets, uids, messages.downgraded, messages.header_only),
    )
