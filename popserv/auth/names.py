"""User names: which are valid, and their preparation (RFC 8265 section 3)."""

from __future__ import annotations

import os
import re

from popserv.auth.precis import LONGEST, enforced

_NAME = re.compile(rb"[^\x00-\x20\x7f:/#.][^\x00-\x20\x7f:/]*")


def check_name(name: bytes) -> None:
    """Raise ValueError if not a valid user name."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{os.fsdecode(name)!r} cannot be a user's name: no spaces, colons or slashes, "
            "and neither # nor . at its start"
        )


def prepared_name(name: bytes) -> bytes:
    """Return the one spelling of a user's name (RFC 8265 section 3.4, UsernameCasePreserved).

    What stands before and behind an ``@`` is taken by itself if that refuses the whole,
    as of a right-to-left name at a left-to-right host.  Fullwidth forms become ASCII,
    slashes, dots and colons among them: judge a name after this and not before.
    """
    try:
        text = name.decode()
    except UnicodeDecodeError:
        return name
    whole = enforced("UsernameCasePreserved", text)
    if whole is not None:
        return whole
    local, at, host = text.rpartition("@")
    if not at or len(name) > LONGEST:
        return name
    prepared = enforced("UsernameCasePreserved", local)
    if prepared is None:
        return name
    return prepared + b"@" + (enforced("UsernameCasePreserved", host) or host.encode())
