"""The PRECIS profiles for user names and passwords (RFC 8264, RFC 8265).

Clients can send the same text as different octets, for example with composed or decomposed
characters.  A profile converts them all to one string.  RFC 8265 replaces SASLprep (RFC 4013).

The library ``precis-i18n`` is optional.  Without it, text is encoded as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from precis_i18n.profile import Profile

_PROFILES: Mapping[str, Profile] = {}
# Loaded at the start: later, the process may not be able to read Python's files.
with suppress(ImportError):
    from precis_i18n import get_profile

    _PROFILES = {name: get_profile(name) for name in ("UsernameCasePreserved", "OpaqueString")}

MAX_OCTETS = 255
"""The maximum octets, in UTF-8, of a text to which a profile is applied.

Clients can send any name before they log in, and the time that precis-i18n takes can grow with
the square of the length: it takes up to 5 ms for 255 octets.
"""


def is_available() -> bool:
    """Return whether precis-i18n is installed."""
    return bool(_PROFILES)


def enforce(profile_name: str, text: str) -> bytes | None:
    """Apply a profile to text, and return the result in UTF-8.

    ASCII text is returned unchanged.  The result is None if the profile rejects the text, or if
    the text has non-ASCII characters and more than ``MAX_OCTETS`` octets.
    """
    octets = text.encode()
    if text.isascii():
        return octets
    profile = _PROFILES.get(profile_name)
    if profile is None:
        return octets
    if len(octets) > MAX_OCTETS:
        return None
    try:
        return profile.enforce(text).encode()
    except ValueError:
        return None
