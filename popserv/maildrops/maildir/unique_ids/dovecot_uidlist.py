"""``dovecot-uidlist``: the UIDs that Dovecot has assigned to the messages of a Maildir.

Version 1, of Dovecot 1.0, starts with ``1 UIDVALIDITY NEXTUID``, and has lines ``UID FILENAME``.
Version 3 starts with ``3`` and fields of a letter and a value: V is the UIDVALIDITY, N the next
UID.  Its lines are ``UID [FIELD...] :FILENAME``, with the fields P (a unique-id for POP3), O (the
order for POP3) and G (the GUID of the message).  A file name counts up to its first colon.

https://doc.dovecot.org/2.3/admin_manual/mailbox_formats/maildir/

New messages get UIDs by lines at the end.  Whoever appends holds ``dovecot-uidlist.lock``.
Dovecot accepts lines of other programs: it does not keep what it has read without comparing the
length of the file.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from socket import gethostname
from typing import NamedTuple

from popserv.maildrops.maildir.file_names import split_name
from popserv.maildrops.maildir.listing.base_names import delivery_order
from popserv.maildrops.maildir.small_files import read_file, unusable
from popserv.runtime.closing import close
from popserv.runtime.processes import has_ended

NAME = b"dovecot-uidlist"
LOCK_NAME = b"dovecot-uidlist.lock"

LOCK_TIMEOUT = 1.0
"""Seconds to wait for Dovecot's lock."""

STALE_AGE = 120
"""Seconds after which Dovecot takes a lock for stale that nobody has touched."""

_MAX_UID = (1 << 32) - 2
_LINE = re.compile(rb"([0-9]{1,10}) +(.+)", re.DOTALL)
_NUMBER = re.compile(rb"[0-9]{1,10}")


class ListLocked(Exception):
    """Dovecot is changing the list, and will be done soon."""


class Record(NamedTuple):
    """A line of the list.

    ``unique_id`` is the field P, empty if it stands for the base name; ``order`` the field O.
    """

    uid: int
    unique_id: bytes | None = None
    order: int | None = None
    guid: bytes | None = None


class UidList(NamedTuple):
    """The list: the records by base name, and the UIDs to come."""

    version: int
    validity: int
    next_uid: int
    records: dict[bytes, Record]


def decode(data: bytes) -> UidList:
    """Return the contents of a list; a last line without a line end is being written.

    :raises ValueError: Dovecot would not accept it either; the message names the line.
    """
    head, *lines = data.split(b"\n")[:-1] or [b""]
    fields = head.split(b" ")
    version, numbers = fields[0], fields[1:3]
    if version == b"3":
        values = {field[:1]: field[1:] for field in fields[1:]}
        numbers = [values.get(b"V", b""), values.get(b"N", b"")]
    elif version != b"1":
        raise ValueError("line 1: its version is neither 1 nor 3")
    if len(numbers) != 2 or not all(map(_NUMBER.fullmatch, numbers)):
        raise ValueError("line 1: UIDVALIDITY or the next UID is missing")
    validity, next_uid = map(int, numbers)
    if not (0 < validity <= _MAX_UID and 0 < next_uid <= _MAX_UID + 1):
        raise ValueError("line 1: UIDVALIDITY or the next UID is out of range")
    records: dict[bytes, Record] = {}
    previous = 0
    for number, line in enumerate(lines, 2):
        found = _LINE.fullmatch(line)
        uid = int(found[1]) if found else 0
        if not (found and previous < uid <= _MAX_UID):
            raise ValueError(f"line {number}: it does not start with a higher UID")
        previous = uid
        if version == b"1":
            record, name = Record(uid), found[2]
        else:
            record, name = _decode_fields(uid, found[2])
        base_name = split_name(name)[0]
        if not base_name or b"/" in base_name:
            raise ValueError(f"line {number}: it has no file name")
        # A file that was moved away and back has two lines; Dovecot, too, uses the second.
        records[base_name] = record
    return UidList(int(version), validity, max(next_uid, previous + 1), records)


def _decode_fields(uid: int, rest: bytes) -> tuple[Record, bytes]:
    if rest.startswith(b":"):
        return Record(uid), rest[1:]
    fields, _, name = rest.partition(b" :")
    values = {field[:1]: field[1:] for field in fields.split(b" ")}
    order = values.get(b"O")
    return (
        Record(
            uid,
            values.get(b"P"),
            int(order) if order and _NUMBER.fullmatch(order) else None,
            values.get(b"G"),
        ),
        name,
    )


def load(maildir_fd: int) -> tuple[UidList | None, tuple[int, ...] | None]:
    """Return the list of an open Maildir and its version; None without a list.

    Waits for the disk: call it in a thread.

    :raises OSError: the list cannot be read, or is damaged.
    """
    data, version = read_file(NAME, maildir_fd)
    return (None if data is None else _decode(data)), version


def _decode(data: bytes) -> UidList:
    try:
        return decode(data)
    except ValueError as error:
        raise unusable(
            NAME, f"{error}; let Dovecot repair the file, or remove --uidl to use base names"
        ) from error


def assign(maildir_fd: int, base_names: Iterable[bytes]) -> None:
    """Assign UIDs to messages that the list of an open Maildir does not have, as Dovecot would.

    Waits for Dovecot's lock and for the disk: call it in a thread.

    :raises ListLocked: Dovecot is changing the list.
    :raises OSError: the list cannot be changed, or Dovecot has left its lock behind.
    """
    with _locked(maildir_fd):
        flags = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(NAME, flags, dir_fd=maildir_fd)
        try:
            data, _ = read_file(NAME, maildir_fd)
            uids = _decode(data or b"")
            status = os.fstat(fd)
            # In version 1, Dovecot accepts no UID beyond the one in the first line.
            if uids.version != 3 or not (data or b"").endswith(b"\n"):
                raise unusable(NAME, "only Dovecot can append to this file")
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
                raise unusable(NAME, "not a regular file with one name")
            new = [name for name in base_names if name not in uids.records and _can_be_listed(name)]
            lines = b"".join(
                b"%d :%b\n" % numbered
                for numbered in enumerate(sorted(new, key=delivery_order), uids.next_uid)
            )
            _append(fd, lines, status.st_size)
        finally:
            close(fd)


def _can_be_listed(base_name: bytes) -> bool:
    return not re.search(rb"[\r\n]", base_name)


def _append(fd: int, lines: bytes, length: int) -> None:
    try:
        if os.write(fd, lines) != len(lines):
            raise unusable(NAME, "line written in part")
        os.fdatasync(fd)
    except OSError:
        os.ftruncate(fd, length)
        raise


@contextmanager
def _locked(maildir_fd: int) -> Iterator[None]:
    """Hold Dovecot's lock: a file that is created exclusively, with process number and host."""
    deadline = time.monotonic() + LOCK_TIMEOUT
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        try:
            fd = os.open(LOCK_NAME, flags, 0o600, dir_fd=maildir_fd)
            break
        except FileExistsError as error:
            if time.monotonic() > deadline:
                if _remove_abandoned_lock(maildir_fd):
                    continue
                if _age_of_lock(maildir_fd) < STALE_AGE:
                    raise ListLocked from error
                raise unusable(LOCK_NAME, "old lock of a program that has ended") from error
        time.sleep(0.02)
    try:
        with suppress(OSError):
            os.write(fd, os.fsencode(f"{os.getpid()}:{gethostname()}"))
        close(fd)
        yield
    finally:
        with suppress(OSError):
            os.unlink(LOCK_NAME, dir_fd=maildir_fd)


def _remove_abandoned_lock(maildir_fd: int) -> bool:
    """Remove the lock of a process of this machine that has ended, as Dovecot does.

    Return whether it was removed.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(LOCK_NAME, flags, dir_fd=maildir_fd)
        try:
            lock = os.fstat(fd)
            process, _, host = os.read(fd, 512).strip().partition(b":")
        finally:
            close(fd)
        # This process holds the lock of the maildrop: a lock with its number is an earlier one's.
        if host != os.fsencode(gethostname()) or not has_ended(process, own_ended=True):
            return False
        # Another program may have removed it meanwhile, and made one of its own.
        if not os.path.samestat(lock, os.stat(LOCK_NAME, dir_fd=maildir_fd, follow_symlinks=False)):
            return False
        os.unlink(LOCK_NAME, dir_fd=maildir_fd)
    except OSError:
        return False
    return True


def has_stale_lock(maildir_fd: int) -> bool:
    """Return whether a program has left Dovecot's lock behind."""
    return _age_of_lock(maildir_fd) >= STALE_AGE


def _age_of_lock(maildir_fd: int) -> float:
    try:
        status = os.stat(LOCK_NAME, dir_fd=maildir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return 0
    # The clock may have been set back since.
    return abs(time.time() - status.st_mtime)
