"""What can be wrong with an object store and its objects, as errors that clients may see.

They have no cause, since the server would log it for each client: whoever raises one gives the
problem, and :class:`~popserv.maildrops.sql.objects.ObjectStore` logs it once.
"""

from __future__ import annotations

from uuid import UUID

from popserv.errors import POPError, TryLater
from popserv.texts import Text


class ObjectStoreUnavailable(TryLater):
    """The object store does not do what it was asked, for now; ``problem`` is for the log."""

    def __init__(self, problem: str) -> None:
        super().__init__()
        self.problem = problem

    def __str__(self) -> str:
        return self.problem


class ObjectUnreadable(POPError):
    """The object ``key`` is not there as it was stored; ``problem`` is for the log."""

    code = b"SYS/PERM"
    text = Text("message cannot be read, contact your administrator")

    def __init__(self, key: UUID, problem: str) -> None:
        super().__init__()
        self.key = key
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.key}: {self.problem}"


class ObjectMissing(ObjectUnreadable):
    """The object store has no such object."""


class ObjectDamaged(ObjectUnreadable):
    """The object has another length or other octets than those that were stored."""
