"""``courierpop3dsizelist``: the unique-ids that Courier's POP3 server has assigned.

The first line is ``/VERSION NEXT [UIDVALIDITY]``.  Each other one is ``FILENAME OCTETS N`` in
version 1, ``FILENAME OCTETS N:UIDVALIDITY`` in version 2, and in version 3
``FILENAME OCTETS N:UIDVALIDITY:UTF8``.  The unique-id is ``UIDn-uidvalidity``, ``UIDn`` if the
UIDVALIDITY is 0, and if ``n`` is 0 the file name up to its first colon, some octets of which are
escaped.  The oldest version has no first line and no numbers.

Courier replaces the file without a lock, so no other program can add messages to it.

https://github.com/svarshavchik/courier-libs/blob/master/imap/pop3dserver.C
"""

from __future__ import annotations

import re

from popserv.maildrops.maildir.file_names import split_name
from popserv.maildrops.maildir.small_files import Version, read_file, unusable

NAME = b"courierpop3dsizelist"

_HEAD = re.compile(rb"/([123]) [0-9]+(?: [0-9]+)?")
_LINES = {
    b"1": re.compile(rb"(?P<name>.+) [0-9]+ (?P<n>[0-9]{1,20})(?::(?P<validity>[0-9]{1,20}))?"),
    b"2": re.compile(rb"(?P<name>.+) [0-9]+ (?P<n>[0-9]{1,20}):(?P<validity>[0-9]{1,20})"),
    b"3": re.compile(
        rb"(?P<name>.+) [0-9]+ (?P<n>[0-9]{1,20}):(?P<validity>[0-9]{1,20}):[0-9]{1,20}"
    ),
    # Without a first line.
    b"": re.compile(rb"(?P<name>.+) [0-9]+(?P<n>)(?P<validity>)"),
}
_ESCAPED = re.compile(rb"[^\x21-\x7e]|['\"+]")


def decode(data: bytes) -> dict[bytes, bytes]:
    """Return the unique-ids by base name.

    :raises ValueError: a line is invalid, or is not complete; the message names it.
    """
    *lines, rest = data.split(b"\n")
    if rest or not lines:
        raise ValueError(f"line {len(lines) + 1}: it has no end")
    head = _HEAD.fullmatch(lines[0])
    if lines[0].startswith(b"/") and head is None:
        raise ValueError("line 1: its version is not 1, 2 or 3")
    form = _LINES[head[1] if head else b""]
    unique_ids: dict[bytes, bytes] = {}
    for number, line in enumerate(lines[1:] if head else lines, 2 if head else 1):
        found = form.fullmatch(line)
        base_name = split_name(found["name"])[0] if found else b""
        if found is None or not base_name or b"/" in base_name:
            raise ValueError(f"line {number}: it is not a file name with numbers")
        n, validity = int(found["n"] or 0), int(found["validity"] or 0)
        if not n:
            unique_id = _ESCAPED.sub(_escape, base_name)
        elif validity:
            unique_id = b"UID%d-%d" % (n, validity)
        else:
            unique_id = b"UID%d" % n
        unique_ids[base_name] = unique_id
    return unique_ids


def load(maildir_fd: int) -> tuple[dict[bytes, bytes] | None, Version]:
    """Return the unique-ids of an open Maildir and the file's version; None without a file.

    Waits for the disk: call it in a thread.

    :raises OSError: the file cannot be read, or is damaged.
    """
    data, version = read_file(NAME, maildir_fd)
    if data is None:
        return None, version
    try:
        return decode(data), version
    except ValueError as error:
        raise unusable(
            NAME, f"{error}; let Courier write the file again, or remove --uidl"
        ) from error


def _escape(octet: re.Match[bytes]) -> bytes:
    return b"+%02X" % ord(octet[0])
