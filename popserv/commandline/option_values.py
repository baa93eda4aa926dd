"""The values of options: each function returns the value, or raises UsageError."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from twisted.python import usage


def number(name: str, given: str, wanted: str, digits: int = 6) -> int:
    """Return an option that is a number of at most so many digits."""
    if not re.fullmatch(rf"[0-9]{{1,{digits}}}", given):
        raise usage.UsageError(f"--{name} takes {wanted}, not {given!r}")
    return int(given)


def positive(name: str, given: str, kind: Callable[[str], float], wanted: str) -> float:
    """Return an option that is a number above 0."""
    try:
        value = kind(given)
        if 0 < value < math.inf:
            return value
    except ValueError:
        pass
    raise usage.UsageError(f"--{name} takes {wanted}, not {given!r}")
