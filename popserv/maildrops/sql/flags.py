"""The flags of messages in the table ``message``: the bits of a number."""

from __future__ import annotations

from popserv.messages.details import Flags

_BITS = {
    # The statements name this one.
    Flags.SEEN: 1,
    Flags.ANSWERED: 2,
    Flags.FLAGGED: 4,
    Flags.DELETED: 8,
    Flags.DRAFT: 16,
    Flags.FORWARDED: 32,
}


def number_of(flags: Flags) -> int:
    """Return the number that stands for flags."""
    return sum(bit for flag, bit in _BITS.items() if flag in flags)


def flags_in(number: int) -> Flags:
    """Return the flags of a number; bits that are none are left out."""
    flags = Flags.NONE
    for flag, bit in _BITS.items():
        if number & bit:
            flags |= flag
    return flags
