"""Pinning unique-ids of another server: what ``popserv uidl import`` does in a maildrop."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import NamedTuple

from popserv.core.snapshot import is_unique_id
from popserv.maildrops.maildir.unique_ids import courier_sizelist, dovecot_uidlist, pinned_file
from popserv.maildrops.maildir.unique_ids.format import Source, UniqueIdFormat
from popserv.runtime.closing import close


class Pinned(NamedTuple):
    """What pinning has done: the number of messages with the unique-ids, and refusals.

    ``refused`` has the reason by base name.
    """

    messages: int
    refused: Mapping[bytes, str]


def listed_unique_ids(maildir_fd: int, unique_id_format: UniqueIdFormat) -> dict[bytes, bytes]:
    """Return the unique-ids that the file of another server gives, by base name.

    One that is not valid is included if the file has it, so that it can be reported.

    :raises OSError: the file is missing, cannot be read, or is damaged.
    """
    if unique_id_format.source is Source.COURIER:
        by_name, _ = courier_sizelist.load(maildir_fd)
        if by_name is None:
            raise _missing(courier_sizelist.NAME)
        return by_name
    uids, _ = dovecot_uidlist.load(maildir_fd)
    if uids is None:
        raise _missing(dovecot_uidlist.NAME)
    return {
        name: unique_id_format.of_record(record, uids.validity, name) or b""
        for name, record in uids.records.items()
    }


def _missing(name: bytes) -> OSError:
    return OSError(errno.ENOENT, os.strerror(errno.ENOENT), name)


def pin(maildir_fd: int, wanted: Mapping[bytes, bytes], base_names: Collection[bytes]) -> Pinned:
    """Pin unique-ids of messages in an open Maildir, whose lock is held.

    ``wanted`` has them by base name; those of messages that are not in ``base_names`` are ignored.
    A message that has another pin keeps it.

    :raises OSError: the file with pins cannot be read or written, or is damaged.
    """
    pins, _ = pinned_file.load(maildir_fd)
    unique_ids = dict(pins.unique_ids)
    by_unique_id = {unique_id: name for name, unique_id in unique_ids.items()}
    numbers = Counter(wanted.values())
    refused: dict[bytes, str] = {}
    count = 0
    for name in filter(wanted.__contains__, base_names):
        unique_id = wanted[name]
        if not is_unique_id(unique_id):
            refused[name] = "its unique-id is invalid"
        elif numbers[unique_id] > 1:
            refused[name] = "another message has the same unique-id"
        elif unique_ids.get(name, unique_id) != unique_id:
            refused[name] = "it has another pinned unique-id"
        elif by_unique_id.get(unique_id, name) != name:
            refused[name] = "its unique-id is pinned to another message"
        else:
            count += 1
            unique_ids[name] = unique_id
    if unique_ids != pins.unique_ids:
        pinned_file.save(maildir_fd, pins._replace(unique_ids=unique_ids))
        _change_times(maildir_fd)
    return Pinned(count, refused)


def _change_times(maildir_fd: int) -> None:
    """Give new/ and cur/ other times, so that running servers look at the pins."""
    for folder in (b"new", b"cur"):
        with suppress(FileNotFoundError):
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=maildir_fd)
            try:
                os.utime(fd)
            except OSError as error:
                raise OSError(error.errno, error.strerror, folder) from error
            finally:
                close(fd)
