"""User names and passwords as Unicode text (RFC 6856, RFC 8265), so that spelling does not matter.

One word has several spellings in octets: composed and decomposed, in UTF-8 and in
Latin-1.  RFC 8265, the successor of SASLprep, says which one stands for all.  ASCII
is never touched, and what RFC 8265 refuses is taken as it came: a password that was
good before stays good.

It needs ``precis-i18n``; without it every text is taken as it came.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from precis_i18n.profile import Profile

LONGEST = 255
"""Longer text, in octets of UTF-8, is taken as it came: anybody may send a name, and
precis-i18n takes a time that can grow with the square of the length, 5 ms for this one."""


def is_available() -> bool:
    """Tell whether the library is installed that RFC 8265's rules come from."""
    return _profile("OpaqueString") is not None


def password_forms(password: bytes) -> list[bytes]:
    """Return the one or two spellings to check a password in, the likelier first.

    UTF-8 is tried as RFC 8265 section 4.2 has it (OpaqueString), then as it came, for
    secrets that were made without it.  What is no UTF-8 is tried as it came, and then
    as Latin-1 would read it, for clients that send that.
    """
    try:
        text = password.decode()
    except UnicodeDecodeError:
        latin1 = password.decode("latin-1")
        forms = [password, _enforced("OpaqueString", latin1) or password]
    else:
        forms = [_enforced("OpaqueString", text) or password, password]
    return list(dict.fromkeys(forms))


def prepared_password(password: bytes) -> bytes:
    """Return the spelling to make a new secret of."""
    return password_forms(password)[0]


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
    whole = _enforced("UsernameCasePreserved", text)
    if whole is not None:
        return whole
    local, at, host = text.rpartition("@")
    if not at or len(name) > LONGEST:
        return name
    prepared = _enforced("UsernameCasePreserved", local)
    if prepared is None:
        return name
    return prepared + b"@" + (_enforced("UsernameCasePreserved", host) or host.encode())


def _enforced(profile_name: str, text: str) -> bytes | None:
    """Return the text as the profile wants it, in UTF-8, or None if it does not want it at all."""
    octets = text.encode()
    if text.isascii():
        return octets
    profile = _profile(profile_name)
    if profile is None:
        return octets
    if len(octets) > LONGEST:
        return None
    try:
        return profile.enforce(text).encode()
    except ValueError:
        return None


@cache
def _profile(name: str) -> Profile | None:
    try:
        from precis_i18n import get_profile
    except ImportError:
        return None
    return get_profile(name)
