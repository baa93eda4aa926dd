"""The connections that a server has, and who of them makes room when there are too many."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

C = TypeVar("C", bound=Hashable)


class Connections(Generic[C]):
    """Connections, in order of their age; those that have not logged in are strangers.

    Nothing here takes longer because there are many.
    """

    def __init__(self) -> None:
        # Where each is among the strangers; None if it has logged in.
        self._places: dict[C, Hashable] = {}
        self._strangers: dict[Hashable, dict[C, None]] = {}
        # At [n] the places with n strangers; there is no empty one at the end.
        self._by_size: list[dict[Hashable, None]] = [{}]

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[C]:
        return iter(self._places)

    def add(self, connection: C, network: str | None) -> None:
        """Take in a stranger of a network; one of no network is in a place of its own."""
        place = network or connection
        self._places[connection] = place
        there = self._strangers.setdefault(place, {})
        self._resize(place, len(there), len(there) + 1)
        there[connection] = None

    def move(self, connection: C, network: str | None) -> None:
        """Note that a stranger is of another network than was known; it is the youngest there."""
        if self._places.get(connection) is not None:
            self.remove(connection)
            self.add(connection, network)

    def settle(self, connection: C) -> None:
        """Note that a connection has logged in, if it is still there."""
        if connection in self._places:
            self._leave(connection, self._places[connection])
            self._places[connection] = None

    def remove(self, connection: C) -> None:
        """Let a connection go, if it is still there."""
        self._leave(connection, self._places.pop(connection, None))

    def pop(self) -> C | None:
        """Let go, and return, the oldest stranger of the network that has most; None without any.

        Of networks with as many it is the one that has had so many for longest.
        """
        for place in self._by_size[-1]:
            oldest = next(iter(self._strangers[place]))
            self.remove(oldest)
            return oldest
        return None

    def _leave(self, connection: C, place: Hashable) -> None:
        if place is None:
            return
        there = self._strangers[place]
        self._resize(place, len(there), len(there) - 1)
        del there[connection]
        if not there:
            del self._strangers[place]

    def _resize(self, place: Hashable, before: int, after: int) -> None:
        by_size = self._by_size
        if before:
            del by_size[before][place]
        if after == len(by_size):
            by_size.append({})
        if after:
            by_size[after][place] = None
        if not by_size[-1] and len(by_size) > 1:
            by_size.pop()
