"""Numbers and times as people read them."""

from __future__ import annotations

_PREFIXES = ("", "k", "M", "G", "T", "P", "E")
_UNITS = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))


def amount(value: float) -> str:
    """Return a number with separators of thousands, and one digit more if it is small."""
    rounded = round(value, 1)
    return f"{value:,.0f}" if rounded >= 100 or rounded == int(rounded) else f"{rounded:,}"


def octets(value: float) -> str:
    """Return a number of octets with a decimal prefix and three digits, such as ``1.23 MB``."""
    exponent = 0
    while value >= 999.5 and exponent < len(_PREFIXES) - 1:
        value /= 1000
        exponent += 1
    digits = 0 if not exponent or value >= 99.95 else 1 if value >= 9.995 else 2
    number = f"{value:,.{digits}f}"
    return f"{number.rstrip('0').rstrip('.') if digits else number} {_PREFIXES[exponent]}B"


def octets_per_second(value: float) -> str:
    """Return a rate of octets."""
    return f"{octets(value)}/s"


def duration(seconds: float) -> str:
    """Return a time in its two largest units, such as ``2 h 14 min``."""
    rest = max(0, int(seconds))
    for at, (unit, length) in enumerate(_UNITS):
        if rest >= length:
            text = f"{rest // length} {unit}"
            if at + 1 < len(_UNITS) and (rest % length) // _UNITS[at + 1][1]:
                smaller, part = _UNITS[at + 1]
                text += f" {rest % length // part} {smaller}"
            return text
    return "0 s"


def counted(number: int, one: str, many: str) -> str:
    """Return a number with the noun for one, or for many."""
    return f"{number:,} {one if number == 1 else many}"
