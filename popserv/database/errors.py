"""What a statement raises when the database cannot be asked.

Both are replies with ``[SYS/TEMP]``, which show a client no detail.
"""

from __future__ import annotations

from popserv.errors import TryLater


class DatabaseUnavailable(TryLater):
    """The statement was not executed, and will not be."""


class OutcomeUnknown(TryLater):
    """The statement may have been executed, or may be executed later."""
