"""User names: which names are valid, and how a name is prepared (RFC 8265 section 3)."""

from __future__ import annotations

import os
import re

from popserv.auth.precis import MAX_OCTETS, enforce

_VALID_NAME = re.compile(rb"[^\x00-\x20\x7f:/#.][^\x00-\x20\x7f:/]*")


def name_octets(avatar_id: bytes | str | tuple[()]) -> bytes | tuple[()]:
    """Return an avatar ID of a checker as octets; some checkers return names as text."""
    return avatar_id.encode("utf-8", "surrogateescape") if isinstance(avatar_id, str) else avatar_id


def check_name(name: bytes) -> None:
    """Check that a name can be a field of the users file and the name of a directory.

    :raises ValueError: it cannot; the message states the rules.
    """
    if not _VALID_NAME.fullmatch(name):
        raise ValueError(
            f"{os.fsdecode(name)!r} is not a valid user name: it must have no spaces, control "
            "characters, colons or slashes, and must not start with # or ."
        )


def prepared_name(name: bytes) -> bytes:
    """Return a user name, converted by the profile UsernameCasePreserved (RFC 8265 section 3.4).

    Names that differ only in their Unicode encoding become the same octets.  The case of letters
    does not change.  A name that is not UTF-8, or that the profile rejects, is returned unchanged.

    If the profile rejects a name with ``@``, the parts before and after the last ``@`` are
    prepared separately.  For example, it rejects a right-to-left local part with a left-to-right
    domain.

    Fullwidth characters become ASCII, among them ``/``, ``.`` and ``:``.  Therefore pass the
    result to :func:`check_name`, not the argument.
    """
    try:
        text = name.decode()
    except UnicodeDecodeError:
        return name
    prepared = enforce("UsernameCasePreserved", text)
    if prepared is not None:
        return prepared
    local_part, at, domain = text.rpartition("@")
    if not at or len(name) > MAX_OCTETS:
        return name
    prepared = enforce("UsernameCasePreserved", local_part)
    if prepared is None:
        return name
    return prepared + b"@" + (enforce("UsernameCasePreserved", domain) or domain.encode())
