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


def enforced(profile_name: str, text: str) -> bytes | None:
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
