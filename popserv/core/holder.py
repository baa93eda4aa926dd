"""The connection of a session, as a realm sees it that may have to end the session."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Protocol


class Holder(Protocol):
    """The connection of a session that has a maildrop open."""

    async def is_gone(self) -> bool:
        """Return whether its client is gone; it takes seconds at most."""

    def replace(self) -> None:
        """End the session, because its client is gone and the user has logged in again."""


client_holder: ContextVar[Holder | None] = ContextVar("client_holder", default=None)
"""The connection of the client that is logging in, for a realm that can end its session later."""
