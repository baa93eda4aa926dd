"""The ports of a server, which are all opened or end it."""

from __future__ import annotations

import errno

from twisted.application.service import MultiService
from twisted.internet.error import CannotListenError


class CannotStart(SystemExit, Exception):
    """Ends twistd with one line; an Exception, too, so that twistd removes its pidfile first."""


class Listeners(MultiService):
    """Ports, which are all opened or end the server."""

    def privilegedStartService(self) -> None:
        """Bind, while there is still the right to; the reason and a hint if that fails."""
        try:
            super().privilegedStartService()
        except CannotListenError as error:
            raise CannotStart(f"popserv: {error}{_hint(error)}") from None
        except (OSError, OverflowError) as error:
            raise CannotStart(f"popserv: cannot listen: {error}") from None


def _hint(error: CannotListenError) -> str:
    if isinstance(error.socketError, PermissionError):
        return (
            " Ports below 1024 are root's: start as root with twistd's --uid and --gid, "
            "or try --listen tcp:1110"
        )
    if getattr(error.socketError, "errno", None) == errno.EADDRNOTAVAIL:
        return " This machine has no such address."
    return " Is another server running there? Give another port by --listen"
