"""The directories of the folders of Maildir++, which are in the Maildir of the inbox.

A folder ``Archive.2026`` is the directory ``.Archive.2026``; the dot separates the levels.  Octets
that are not printable ASCII are in modified UTF-7 (RFC 3501 section 5.1.3), as IMAP servers write
them.

http://www.courier-mta.org/imap/README.maildirquota.html
"""

from __future__ import annotations

import re
from base64 import b64encode

_MAX_OCTETS = 255
_ENCODED = re.compile(r"&|[^\x20-\x7e]+")


def directory_of(folder: str) -> str:
    """Return the name of a folder's directory in the Maildir; empty for INBOX.

    :raises ValueError: the name is invalid; the message says how to correct it.
    """
    if folder.upper() == "INBOX":
        return ""
    if "/" in folder:
        raise ValueError(f"{folder!r} contains a slash; separate the levels by dots")
    if not all(folder.split(".")):
        raise ValueError(f"{folder!r} has an empty level; give a name such as Archive.2026")
    if not folder.isprintable():
        raise ValueError(f"{folder!r} contains a character that is not printable; remove it")
    name = "." + _ENCODED.sub(_encode, folder)
    if len(name) > _MAX_OCTETS:
        raise ValueError(f"the name of its directory has {len(name)} octets; the limit is 255")
    return name


def _encode(text: re.Match[str]) -> str:
    if text[0] == "&":
        return "&-"
    encoded = b64encode(text[0].encode("utf-16-be")).decode("ascii")
    return "&" + encoded.rstrip("=").replace("/", ",") + "-"
