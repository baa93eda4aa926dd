"""The flags of messages in an MH folder, which are sequences.

nmh itself has only ``unseen``; of the others, ``replied`` and ``flagged`` have the names that
Python's module ``mailbox`` gives them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from popserv.maildrops.mh.sequences import RETRIEVED, UNSEEN, Sequences
from popserv.messages.details import Flags

_NAMES = {
    Flags.ANSWERED: b"replied",
    Flags.FLAGGED: b"flagged",
    Flags.DELETED: b"deleted",
    Flags.DRAFT: b"draft",
    Flags.FORWARDED: b"forwarded",
}


def retrieved(sequences: Sequences, numbers: Collection[int]) -> set[int]:
    """Return which messages clients have retrieved or, if that is recorded, somebody has read."""
    found = sequences.members(RETRIEVED, numbers)
    if UNSEEN in sequences:
        found |= set(numbers) - sequences.members(UNSEEN, numbers)
    return found


def flags_in(sequences: Sequences, numbers: Collection[int]) -> dict[int, Flags]:
    """Return the flags of messages by their numbers."""
    flags = dict.fromkeys(numbers, Flags.NONE)
    for number in retrieved(sequences, numbers):
        flags[number] |= Flags.SEEN
    for flag, name in _NAMES.items():
        for number in sequences.members(name, numbers):
            flags[number] |= flag
    return flags


def set_flags(sequences: Sequences, flags: Mapping[int, Flags], present: Collection[int]) -> None:
    """Give messages flags, by their numbers; ``present`` are the numbers of all messages."""
    members = {name: sequences.members(name, present) for name in (*_NAMES.values(), UNSEEN)}
    # Once there are unseen messages, all others count as read.
    members[RETRIEVED] = sequences.members(RETRIEVED, present)
    for number, each in flags.items():
        for name in members:
            members[name].discard(number)
        members[RETRIEVED if Flags.SEEN in each else UNSEEN].add(number)
        for flag, name in _NAMES.items():
            if flag in each:
                members[name].add(number)
    for name, numbers in members.items():
        sequences.set(name, numbers)
