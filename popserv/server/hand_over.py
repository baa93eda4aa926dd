"""Sessions whose client is gone, which another login of the user may end."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred

from popserv.server.session_events import EndReason
from popserv.transports.liveness import is_gone


class HandOverMixin:
    """Finds out whether the client of a connection is gone; see Holder."""

    transport: Any
    is_disconnected: bool
    callLater: Callable[[float, Callable[[], object]], Any]

    @abstractmethod
    def abort(self, reason: EndReason) -> None:
        """Abort the connection, for a reason that is logged."""

    async def is_gone(self) -> bool:
        """Return whether the client is gone; it takes seconds at most."""
        return self.is_disconnected or await is_gone(self.transport, self._wait)

    def replace(self) -> None:
        """End the session, because its client is gone and the user has logged in again."""
        self.abort(EndReason.REPLACED)

    def _wait(self, seconds: float) -> Deferred[None]:
        waited: Deferred[None] = Deferred()
        self.callLater(seconds, partial(waited.callback, None))
        return waited
