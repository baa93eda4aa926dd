"""The faults that a test can inject into its server."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

_MAY_BE_UNKNOWN = frozenset(
    "APOP AUTH CAPA DELE LANG LIST NOOP PASS RETR RSET STAT STLS TOP UIDL USER UTF8".split()
)


@dataclass(frozen=True)
class Faults:
    """What a server does wrong, for the tests of a mail program; without arguments, nothing.

    Logins and RETR are counted from 1, over all connections, since the faults were set.

    :param greeting_delay: seconds before the greeting.
    :param reply_delay: seconds before each other reply.
    :param octets_per_second: the speed at which the server sends.
    :param drop_after: octets that the server sends on a connection before it closes it; 0: it
        sends no greeting.
    :param refuse_logins: how many logins are answered ``-ERR [AUTH]``, although the password is
        right.
    :param fail_logins: how many logins are answered ``-ERR [SYS/TEMP]``.
    :param lock_held: logins are answered ``-ERR [IN-USE]``, as if another session had the maildrop.
    :param unknown_commands: keywords that the server does not know, such as ``CAPA`` or ``UIDL``.
    :param wrong_sizes: octets that are added to the size of each message in LIST and STAT; may be
        negative.
    :param changing_unique_ids: each session has other unique-ids.
    :param fail_retr: the number of the RETR that is answered ``-ERR [SYS/TEMP]``.
    :param drop_retr: the number of a RETR, and the octets after its status line that are sent
        before the server closes the connection.
    :param unterminated_retr: the number of the RETR whose response has no line with a dot at its
        end; the connection stays open.
    :param fail_removal: QUIT removes nothing, and is answered ``-ERR [SYS/TEMP]``.
    :raises TypeError: an argument has the wrong type.
    :raises ValueError: an argument is out of range, or two of them contradict each other.
    """

    greeting_delay: float = 0
    reply_delay: float = 0
    octets_per_second: int | None = None
    drop_after: int | None = None
    refuse_logins: int = 0
    fail_logins: int = 0
    lock_held: bool = False
    unknown_commands: Collection[str] = ()
    wrong_sizes: int = 0
    changing_unique_ids: bool = False
    fail_retr: int | None = None
    drop_retr: tuple[int, int] | None = None
    unterminated_retr: int | None = None
    fail_removal: bool = False

    def __post_init__(self) -> None:
        for name in ("greeting_delay", "reply_delay"):
            self._check(name, float, 0)
        for name in ("drop_after", "refuse_logins", "fail_logins"):
            self._check(name, int, 0)
        for name in ("octets_per_second", "fail_retr", "unterminated_retr"):
            self._check(name, int, 1)
        self._check("wrong_sizes", int, None)
        for name in ("lock_held", "changing_unique_ids", "fail_removal"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, not {getattr(self, name)!r}")
        if self.refuse_logins and self.fail_logins:
            raise ValueError("refuse_logins and fail_logins exclude each other")
        self._check_drop_retr()
        self._check_unknown_commands()

    def _check(self, name: str, kind: type[float], minimum: int | None) -> None:
        value: Any = getattr(self, name)
        if value is None and getattr(Faults, name) is None:
            return
        if isinstance(value, bool) or not isinstance(value, (int, kind)):
            raise TypeError(f"{name} must be a number of type {kind.__name__}, not {value!r}")
        if minimum is not None and not value >= minimum:
            raise ValueError(f"{name} must be {minimum} or more, not {value!r}")

    def _check_drop_retr(self) -> None:
        if self.drop_retr is None:
            return
        match self.drop_retr:
            case (int(number), int(octets)) if number >= 1 and octets >= 0:
                return
        raise ValueError(
            "drop_retr must be the number of a RETR, from 1, and a number of octets, such as "
            f"(2, 100), not {self.drop_retr!r}"
        )

    def _check_unknown_commands(self) -> None:
        if isinstance(self.unknown_commands, (str, bytes)):
            raise TypeError(
                f"unknown_commands must be a collection, such as ['CAPA'], not "
                f"{self.unknown_commands!r}"
            )
        for name in self.unknown_commands:
            if name not in _MAY_BE_UNKNOWN:
                known = ", ".join(sorted(_MAY_BE_UNKNOWN))
                raise ValueError(f"unknown_commands has {name!r}; use some of {known}")


class ActiveFaults:
    """The faults of a running server, and what was counted since they were set."""

    def __init__(self, faults: Faults) -> None:
        self.set(faults)

    def set(self, faults: Faults) -> None:
        """Set other faults, and count from the start."""
        self.current = faults
        self._logins = self._retrievals = 0

    def count_login(self) -> int:
        """Return the number of a login, from 1."""
        self._logins += 1
        return self._logins

    def count_retrieval(self) -> int:
        """Return the number of a RETR, from 1."""
        self._retrievals += 1
        return self._retrievals

    def is_unknown(self, keyword: bytes) -> bool:
        """Return whether the server must not know a command, whose keyword is in upper case."""
        return keyword.decode("ascii", "replace") in self.current.unknown_commands
