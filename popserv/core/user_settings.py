"""Per-user settings: how a checker tells a realm and its store what applies to one user.

A checker returns :class:`ConfiguredUser` as avatar ID for a user with settings, and the name as
bytes for any other.  It is not a subclass of bytes: a realm that does not know of settings fails,
and cannot ignore a restriction.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace

MIN_SESSIONS = 2
"""The minimum of ``--max-user-sessions``, and of the setting with this name."""

_SECONDS = {"h": 3600.0, "d": 86400.0, "w": 604800.0}


def parse_age(text: str) -> float:
    """Return the seconds of a number of hours, days or weeks above 0, such as 30d.

    :raises ValueError: it is not an age; the message continues the name of a setting.
    """
    found = re.fullmatch(r"([1-9][0-9]{0,5})([hdw])", text)
    if found is None:
        raise ValueError(f"must be a number above 0 and h, d or w, such as 30d, not {text!r}")
    return int(found[1]) * _SECONDS[found[2]]


def parse_sessions(text: str) -> int:
    """Return the greatest number of sessions of a user, which is at least 2.

    With one, a session whose client is gone would keep its user out.

    :raises ValueError: it is no such number; the message continues the name of a setting.
    """
    if not re.fullmatch("[0-9]{1,6}", text) or int(text) < MIN_SESSIONS:
        raise ValueError(f"must be a whole number from {MIN_SESSIONS} to 999999, not {text!r}")
    return int(text)


def check_deleted(text: str) -> None:
    """Check what happens to deleted messages: ``remove``, ``keep`` or ``move:FOLDER``.

    :raises ValueError: it is none of them; the message continues the name of a setting.
    """
    if text not in ("remove", "keep") and not re.fullmatch("move:.+", text):
        raise ValueError(f"must be remove, keep or move:FOLDER, not {text!r}")


@dataclass(frozen=True)
class UserSettings:
    """What applies to one user, and not to all users of the store."""

    read_only: bool = False
    """Whether nothing is changed in the maildrop: no removal, and no record of what was read."""
    maildrop: bytes = b""
    """The absolute path of the maildrop, instead of the one that the store has for the name."""
    deleted: str | None = None
    """As ``--deleted``, which it replaces: ``remove``, ``keep`` or ``move:FOLDER``."""
    since: float | None = None
    """As ``--since``, which it replaces: the age in seconds above which messages are not shown."""

    max_user_sessions: int | None = None
    """As ``--max-user-sessions``, which it replaces."""

    def of_mailbox(self) -> UserSettings:
        """Return what of these settings concerns the store, which does not count sessions."""
        return self if self.max_user_sessions is None else replace(self, max_user_sessions=None)

    def given(self) -> list[str]:
        """Return the names of the settings that differ from their defaults."""
        return [each.name for each in fields(self) if getattr(self, each.name) != each.default]

    def reject_unsupported(self, *supported: str) -> None:
        """Reject the settings that a store does not support; ``supported`` are those it does.

        :raises UnsupportedSettings: one is given.
        """
        unsupported = [name for name in self.given() if name not in supported]
        if unsupported:
            raise UnsupportedSettings(
                "the store does not support " + ", ".join(f"popserv_{each}" for each in unsupported)
            )


NO_SETTINGS = UserSettings()


class UnsupportedSettings(Exception):
    """A store or a realm cannot honour a user's settings; the message says which, for the log."""


@dataclass(frozen=True)
class ConfiguredUser:
    """The avatar ID of a user with settings: the name, and the settings."""

    name: bytes
    settings: UserSettings


def avatar_id(name: bytes, settings: UserSettings) -> bytes | ConfiguredUser:
    """Return the avatar ID of a user."""
    is_default = settings is NO_SETTINGS or settings == NO_SETTINGS
    return name if is_default else ConfiguredUser(name, settings)
