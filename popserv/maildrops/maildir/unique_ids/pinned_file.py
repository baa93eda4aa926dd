"""``popserv-uidl``: unique-ids that messages of a Maildir keep, whatever server has given them.

Rules of this file:
 1. It is keyed by base name, so it survives renames, restored backups, and a copy of the Maildir.
 2. A wrong unique-id makes a client miss a message.  A file that is not exactly what
    :func:`encode` writes is therefore not used at all, and the maildrop is not opened.
 3. It is replaced whole, synced, under the maildrop's lock.
 4. Pins of removed messages are dropped when half of all or more have been missing for
    ``KEEP_DAYS``, so that sessions that remove messages write nothing, and a folder that is away
    while a backup is restored costs no pin.  One that may be the base name of another message
    stays, so that no message gets it.

The first line is ``popserv-uidl 1``, the number of pins, and the day (since 1970) on which half of
the messages or more were first found missing, or 0.  Each pin is a line with the unique-id, a
space, and the base name, of which octets outside 0x21 to 0x7E and the percent sign are encoded as
in URLs.  The last line is a BLAKE2b digest of 32 octets of everything before it, in hexadecimal.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from hashlib import blake2b
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from popserv.core.snapshot import is_unique_id
from popserv.maildrops.maildir.small_files import (
    MAX_OCTETS,
    Version,
    read_file,
    replace_file,
    unusable,
    version,
)

NAME = b"popserv-uidl"
UNFINISHED_NAME = b"popserv-uidl.new"

KEEP_DAYS = 30
"""The days for which half of the pins or more must be missing before they are dropped."""

_HEAD = re.compile(rb"popserv-uidl 1 ([0-9]{1,9}) ([0-9]{1,9})")
_DIGEST = 32
_BASE_NAME = re.compile(rb"[0-9]+\.")
_SPECIAL = re.compile(rb"[^\x21-\x7e]|%")


class Pins(NamedTuple):
    """The contents of the file: unique-ids by base name.

    ``missing_since`` is the day on which half of the messages or more were found missing, or 0.
    """

    unique_ids: Mapping[bytes, bytes] = {}
    missing_since: int = 0

    def without_removed(self, present: Collection[bytes], today: int) -> Pins:
        """Return what the file should contain if a maildrop has the messages ``present``.

        ``today`` is the day since 1970.
        """
        kept = {
            name: each
            for name, each in self.unique_ids.items()
            if name in present or _may_be_delivered(name, each)
        }
        if 2 * len(kept) > len(self.unique_ids) or not self.unique_ids:
            return self._replace(missing_since=0)
        if not self.missing_since:
            return self._replace(missing_since=today)
        return self if today - self.missing_since < KEEP_DAYS else Pins(kept)


def encode(pins: Pins) -> bytes:
    """Return the octets of a file."""
    unique_ids = pins.unique_ids
    lines = [b"popserv-uidl 1 %d %d\n" % (len(unique_ids), pins.missing_since)]
    lines += [b"%b %b\n" % (unique_ids[name], quote(name)) for name in sorted(unique_ids)]
    text = b"".join(lines)
    return text + _digest(text) + b"\n"


def decode(data: bytes) -> Pins:
    """Return the contents of a file.

    :raises ValueError: :func:`encode` does not write such a file.
    """
    text, digest = data[: -2 * _DIGEST - 1], data[-2 * _DIGEST - 1 :]
    head, *lines = text.split(b"\n")
    head_numbers = _HEAD.fullmatch(head)
    if head_numbers is None:
        raise ValueError("it does not start with popserv-uidl 1")
    if digest != _digest(text) + b"\n":
        raise ValueError("its digest is wrong, so it is incomplete or was edited")
    unique_ids: dict[bytes, bytes] = {}
    for line in lines[:-1]:
        unique_id, _, quoted = line.partition(b" ")
        name = unquote(quoted)
        if not is_unique_id(unique_id) or not is_base_name(name):
            raise ValueError("it has an invalid unique-id or base name")
        unique_ids[name] = unique_id
    distinct = len(set(unique_ids.values()))
    if not len(unique_ids) == distinct == len(lines) - 1 == int(head_numbers[1]):
        raise ValueError("it has a unique-id or a base name twice, or lacks one")
    return Pins(unique_ids, int(head_numbers[2]))


def _may_be_delivered(base_name: bytes, unique_id: bytes) -> bool:
    """Return whether another message may come to have a pinned unique-id as its base name."""
    return unique_id != base_name and _BASE_NAME.match(unique_id) is not None


def quote(name: bytes) -> bytes:
    """Return a base name, or another name, as a word of printable ASCII."""
    return _SPECIAL.sub(lambda octet: b"%%%02X" % ord(octet[0]), name)


def unquote(word: bytes) -> bytes:
    """Return the name that :func:`quote` has made a word of."""
    return unquote_to_bytes(word) if b"%" in word else word


def is_base_name(name: bytes) -> bool:
    """Return whether a file in new/ or cur/ can have this base name."""
    return bool(name) and not re.search(rb"[/\0]", name) and not name.startswith(b".")


def load(maildir_fd: int) -> tuple[Pins, Version]:
    """Return the pinned unique-ids of an open Maildir, and the version of the file.

    Waits for the disk: call it in a thread.

    :raises OSError: the file cannot be read, or is damaged, or cannot be found although the
        directory lists it.
    """
    data, read = read_file(NAME, maildir_fd)
    if data is None:
        return Pins(), read
    try:
        return decode(data), read
    except ValueError as error:
        raise unusable(
            NAME,
            f"{error}; restore it from a backup, or remove it and run popserv uidl import again",
        ) from error


def save(maildir_fd: int, pins: Pins) -> Version:
    """Replace the file of an open Maildir, whose lock is held; return its version.

    Without pins the file is removed.  Waits for the disk: call it in a thread.

    :raises OSError: the file cannot be replaced, or not be synced: the old one or the new one is
        there.
    """
    if not pins.unique_ids:
        with suppress(FileNotFoundError):
            os.unlink(NAME, dir_fd=maildir_fd)
        os.fsync(maildir_fd)
        return None
    data = encode(pins)
    if len(data) > MAX_OCTETS:
        raise unusable(NAME, "it would be too large to be read again")
    replace_file(NAME, UNFINISHED_NAME, data, maildir_fd)
    return version(NAME, maildir_fd)


def _digest(text: bytes) -> bytes:
    return blake2b(text, digest_size=_DIGEST).hexdigest().encode("ascii")
