"""The file names of messages: a base name, and an info suffix that may have flags.

The info suffix starts at the first colon.  Where names cannot contain a colon, as on FAT and NTFS,
other programs write ``;2,`` (isync, go-maildir) or ``!2,`` (OfflineIMAP, Akonadi) and flags
instead.  In all other places a semicolon or an exclamation mark is part of the base name.
"""

from __future__ import annotations

import re

FLAGS_INFO = (b":2,", b";2,", b"!2,")
"""The starts of info suffixes with flags; other info has other meanings."""

OTHER_INFO = rb"[;!]2,[A-Za-z]*"
"""The pattern of info suffixes that start without a colon."""

_AT_END = re.compile(OTHER_INFO + rb"\Z")

_OCTETS = re.compile(rb",S=([0-9]{1,18})(?:,|\Z)")


def may_have_other_info(names: bytes) -> bool:
    """Return whether, of several names in one string, any may have info without a colon."""
    # It is much faster to search for a single octet.
    return (b";" in names and b";2," in names) or (b"!" in names and b"!2," in names)


def split_name(name: bytes) -> tuple[bytes, bytes]:
    """Return the base name and the info suffix of a file name; the suffix is empty without info."""
    at = name.find(b":")
    if at < 0 and may_have_other_info(name):
        found = _AT_END.search(name)
        at = found.start() if found else -1
    return (name, b"") if at < 0 else (name[:at], name[at:])


def has_flag(suffix: bytes, flag: bytes) -> bool:
    """Return whether an info suffix has a flag, which is one letter."""
    return suffix[:3] in FLAGS_INFO and flag in suffix[3:]


def other_base_name(base_name: bytes, token: bytes) -> bytes:
    """Return another base name, which no other file has if none has the token.

    The delivery time, the host and the fields such as ``,S=`` remain.
    """
    unique, comma, fields = base_name.partition(b",")
    seconds, _, rest = unique.partition(b".")
    _, dot, host = rest.partition(b".")
    # Names that start with a dot are not messages.
    return b"%b.R%b" % (seconds or b"0", token) + dot + host + comma + fields


def octets_in_name(base_name: bytes) -> int | None:
    """Return the octets of the file that its name gives for quotas (Maildir++), if it does."""
    found = _OCTETS.search(base_name)
    return int(found[1]) if found else None
