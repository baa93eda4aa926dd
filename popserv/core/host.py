"""A server among those that share a store."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID


class Host(NamedTuple):
    """A server from its start to its end.

    :ivar id: its ID, which is random.
    :ivar name: its name, which other hosts may have as well.
    :ivar version: the version of popserv.
    :ivar is_draining: whether it accepts no more connections.
    :ivar uptime: the seconds since it was first seen.
    :ivar unseen: the seconds since it was last seen.
    """

    id: UUID
    name: str
    version: str
    is_draining: bool
    uptime: float
    unseen: float

    @property
    def short_id(self) -> str:
        """The first digits of the ID, by which people can name the host."""
        return self.id.hex[:8]
