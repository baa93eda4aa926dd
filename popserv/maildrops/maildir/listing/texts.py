"""Keeps messages that were read to count their octets, since clients retrieve new ones at once."""

from __future__ import annotations

from typing import Protocol

MAX_OCTETS = 1 << 23
"""The maximum octets that are kept for all sessions together."""

NO_TEXTS: dict[bytes, bytes] = {}
"""The ``texts`` of a mailbox for which nothing is kept."""


class Keeper(Protocol):
    """A mailbox, with the messages that are kept for it, by their base names."""

    texts: dict[bytes, bytes]


class CountedTexts:
    """Keeps messages for mailboxes; of too many, those that were kept first are dropped."""

    def __init__(self, maximum: int = MAX_OCTETS) -> None:
        self._available = maximum
        self._kept: dict[Keeper, int] = {}

    def keep(self, mailbox: Keeper, texts: dict[bytes, bytes]) -> None:
        """Keep messages until the mailbox has taken or dropped them."""
        octets = sum(map(len, texts.values()))
        mailbox.texts = texts
        self._kept[mailbox] = octets
        self._available -= octets
        while self._available < 0:
            self.drop(next(iter(self._kept)))

    def drop(self, mailbox: Keeper) -> None:
        """Drop what is kept for a mailbox, if anything is."""
        mailbox.texts = NO_TEXTS
        self._available += self._kept.pop(mailbox, 0)
