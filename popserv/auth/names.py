"""User names: which names are valid, and how a name is prepared (RFC 8265 section 3)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from popserv.auth.precis import MAX_OCTETS, enforce
from popserv.core.printable import printable
from popserv.core.user_settings import ConfiguredUser

_VALID_NAME = re.compile(rb"[^\x00-\x20\x7f:/#.][^\x00-\x20\x7f:/]*")


MAX_NAME = 512
"""The maximum octets of a name that a client sends; longer ones are those of nobody."""

AvatarId = bytes | str | tuple[()] | ConfiguredUser
"""What a checker returns for a user: the name, or () for an anonymous user."""


def name_octets(avatar_id: AvatarId) -> bytes | tuple[()]:
    """Return the name in an avatar ID as octets; some checkers return names as text."""
    if isinstance(avatar_id, ConfiguredUser):
        return avatar_id.name
    return avatar_id.encode("utf-8", "surrogateescape") if isinstance(avatar_id, str) else avatar_id


def check_name(name: bytes) -> None:
    """Check that a name can be a field of the users file and the name of a directory.

    :raises ValueError: it cannot; the message states the rules.
    """
    if not _VALID_NAME.fullmatch(name):
        raise ValueError(
            f'"{printable(name)}" is not a valid user name: it must have no spaces, control '
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


class CaseInsensitiveNames:
    """User names that can be found without regard to the case of ASCII letters.

    Phones capitalize the first letter of a name.
    """

    def __init__(self, names: Iterable[bytes]) -> None:
        self._names = frozenset(names)
        # None stands for more than one name.
        self._by_lower_case: dict[bytes, bytes | None] = {}
        for name in self._names:
            lower = name.lower()
            self._by_lower_case[lower] = None if lower in self._by_lower_case else name

    def find(self, *spellings: bytes) -> bytes | None:
        """Return the name that a client means, or None.

        ``spellings`` are the name that it sent and, perhaps, its prepared form.  The first of them
        that is a name counts; otherwise the only name that differs from one of them in case.
        """
        # Found out for every name, so that the time does not tell which there are.
        lower = {spelling.lower() for spelling in spellings} & self._by_lower_case.keys()
        for spelling in spellings:
            if spelling in self._names:
                return spelling
        return self._by_lower_case[lower.pop()] if len(lower) == 1 else None


def readings(name: bytes, delimiter: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the pairs of a user's name and a folder that a client may mean by a name.

    The first is the name itself, and no folder.  If the part before the last ``@`` contains the
    delimiter, what follows its last occurrence may be the folder, or what follows its first one.
    An empty delimiter separates nothing.
    """
    yield name, b""
    local_part, at, domain = name.rpartition(b"@") if b"@" in name else (name, b"", b"")
    splits = (local_part.rpartition, local_part.partition) if delimiter else ()
    for user, _, folder in dict.fromkeys(split(delimiter) for split in splits):
        if user and folder:
            yield user + at + domain, folder


def with_folder(name: bytes, delimiter: bytes, folder: bytes) -> bytes:
    """Return the name by which a client asks for a folder of a user."""
    local_part, at, domain = name.rpartition(b"@") if b"@" in name else (name, b"", b"")
    return local_part + delimiter + folder + at + domain


def with_domain(name: bytes, domain: bytes) -> bytes:
    """Return a name with ``@`` and a domain, unless it has an ``@`` or there is no domain."""
    return name + b"@" + domain if name and domain and b"@" not in name else name
