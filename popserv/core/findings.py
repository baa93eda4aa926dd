"""What checks find: faults with their place and remedy, for people and for programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from itertools import islice
from typing import NamedTuple

MAX_NAMES = 5
"""The maximum number of names in the text of a finding."""


class Severity(Enum):
    """How bad a finding is."""

    ERROR = "error"
    """Clients fail, or the server does not start."""
    WARNING = "warning"
    """Some clients fail, or will fail before long."""
    HINT = "hint"
    """Nothing fails, but it may not be what was meant."""
    UNCHECKED = "unchecked"
    """Something could not be checked."""


class Finding(NamedTuple):
    """What a check has found.

    ``code`` is a short name of the kind of finding, which does not change.  ``where`` is a file, an
    option or an address, ``what`` the problem, and ``remedy`` what to do about it.
    """

    severity: Severity
    code: str
    where: str
    what: str
    remedy: str


def _maker(severity: Severity) -> Callable[[str, str, str, str], Finding]:
    def make(code: str, where: str, what: str, remedy: str) -> Finding:
        return Finding(severity, code, where, what, remedy)

    return make


error = _maker(Severity.ERROR)
warning = _maker(Severity.WARNING)
hint = _maker(Severity.HINT)
unchecked = _maker(Severity.UNCHECKED)


def some_names(names: Iterator[str], count: int) -> str:
    """Return the first of ``count`` names, separated by commas, and how many more there are."""
    shown = ", ".join(islice(names, MAX_NAMES))
    return f"{shown} and {count - MAX_NAMES} more" if count > MAX_NAMES else shown
