"""The connections of a server, and the choice of one to evict when there are too many."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Any, Generic, Protocol, TypeVar

C = TypeVar("C", bound=Hashable)


class Evictable(Hashable, Protocol):
    """A connection with a transport that can be aborted."""

    transport: Any


class Connections(Generic[C]):
    """Connections in the order of their age, grouped by network until they are authenticated.

    Every method takes constant time, however many connections there are.
    """

    def __init__(self) -> None:
        # The group of each connection; None once it is authenticated.
        self._groups: dict[C, Hashable] = {}
        # The first key of a dict is not found in constant time if keys before it were deleted.
        self._unauthenticated: dict[Hashable, OrderedDict[C, None]] = {}
        # At index n the groups with n unauthenticated connections; the last is never empty.
        self._groups_by_size: list[OrderedDict[Hashable, None]] = [OrderedDict()]

    def __len__(self) -> int:
        return len(self._groups)

    def __iter__(self) -> Iterator[C]:
        return iter(self._groups)

    @property
    def authenticated_count(self) -> int:
        """The number of authenticated connections."""
        return len(self._groups) - sum(map(len, self._unauthenticated.values()))

    def add(self, connection: C, network: str | None) -> None:
        """Add an unauthenticated connection; one without a network forms its own group."""
        self._add_to_group(connection, network or connection)

    def add_waiting(self, connection: C, group: str) -> None:
        """Add what waits for another protocol to take its place, which is then added itself."""
        self._add_to_group(connection, group)

    def renew(self, connection: C) -> None:
        """Make a connection the youngest one; do nothing if it was removed meanwhile."""
        if connection in self._groups:
            group = self._groups.pop(connection)
            self._remove_from_group(connection, group)
            self._add_to_group(connection, group)

    def mark_authenticated(self, connection: C) -> None:
        """Record that a connection has logged in; do nothing if it was removed meanwhile."""
        if connection in self._groups:
            self._remove_from_group(connection, self._groups[connection])
            self._groups[connection] = None

    def remove(self, connection: C) -> None:
        """Remove a connection, if it has not been removed yet."""
        self._remove_from_group(connection, self._groups.pop(connection, None))

    def evict(self) -> C | None:
        """Remove and return the oldest unauthenticated connection of the largest group.

        Of several groups of that size, the one that reached it first is chosen.  Return
        None if all connections are authenticated.
        """
        for group in self._groups_by_size[-1]:
            oldest = next(iter(self._unauthenticated[group]))
            self.remove(oldest)
            return oldest
        return None

    def _add_to_group(self, connection: C, group: Hashable) -> None:
        self._groups[connection] = group
        members = self._unauthenticated.setdefault(group, OrderedDict())
        self._resize(group, len(members), len(members) + 1)
        members[connection] = None

    def _remove_from_group(self, connection: C, group: Hashable) -> None:
        if group is None:
            return
        members = self._unauthenticated[group]
        self._resize(group, len(members), len(members) - 1)
        del members[connection]
        if not members:
            del self._unauthenticated[group]

    def _resize(self, group: Hashable, before: int, after: int) -> None:
        by_size = self._groups_by_size
        if before:
            del by_size[before][group]
        if after == len(by_size):
            by_size.append(OrderedDict())
        if after:
            by_size[after][group] = None
        if not by_size[-1]:
            by_size.pop()


class CountedConnections(Connections[Any]):
    """The connections of a process, which also numbers them, and counts what becomes of them.

    :ivar accepted: the number of connections that were added; one that waits is not among them.
    :ivar logins: the number of those that have logged in.
    :ivar evicted: the number of those that were evicted.
    :ivar by_number: the present ones, in the order of their numbers, which begin with 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.accepted = 0
        self.logins = 0
        self.evicted = 0
        self.by_number: dict[int, Any] = {}
        self._numbers: dict[Any, int] = {}

    def add(self, connection: Any, network: str | None) -> None:
        """Add an unauthenticated connection; see Connections."""
        self.accepted += 1
        self.by_number[self.accepted] = connection
        self._numbers[connection] = self.accepted
        super().add(connection, network)

    def remove(self, connection: Any) -> None:
        """Remove a connection, if it has not been removed yet; see Connections."""
        super().remove(connection)
        self.by_number.pop(self._numbers.pop(connection, 0), None)

    def mark_authenticated(self, connection: Any) -> None:
        """Record that a connection has logged in; see Connections."""
        self.logins += 1
        super().mark_authenticated(connection)

    def evict(self) -> Any:
        """Remove and return a connection; see Connections."""
        evicted = super().evict()
        if evicted is not None:
            self.evicted += 1
        return evicted
