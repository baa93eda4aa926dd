"""The listening ports of a server: if one cannot be opened, the server does not start."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from twisted.application.service import IService, MultiService
from twisted.internet.error import CannotListenError

from popserv.runtime.permissions import describe


class CannotStart(SystemExit, Exception):
    """Ends twistd with an error message of one line.

    It is an Exception as well, so that twistd removes its pidfile first.
    """


class Listeners(MultiService):
    """The service of listening ports.

    :param options: the options that name the ports which are not added with their own.
    """

    def __init__(self, options: Sequence[str] = ("--listen", "--listen-tls")) -> None:
        super().__init__()
        self._options = options
        self._option_of: dict[IService, str] = {}

    def add(self, service: IService, option: str) -> None:
        """Add the service of a port that this option names."""
        self._option_of[service] = option
        service.setServiceParent(self)

    def privilegedStartService(self) -> None:
        """Bind the ports while the process still has its privileges.

        :raises CannotStart: a port cannot be bound; the message has a hint.
        """
        for each in self:
            option = self._option_of.get(each)
            self._start(each, self._options if option is None else [option])

    def _start(self, service: IService, options: Sequence[str]) -> None:
        try:
            service.privilegedStartService()
        except CannotListenError as error:
            raise CannotStart(f"popserv: {error}{_hint(error, options[0])}") from None
        except OSError as error:
            raise CannotStart(f"popserv: cannot listen: {describe(error)}") from None
        except OverflowError:
            raise CannotStart(
                "popserv: cannot listen: a port is a number from 0 to 65535; correct "
                + " or ".join(options)
            ) from None


def _hint(error: CannotListenError, option: str) -> str:
    if isinstance(error.socketError, PermissionError):
        return (
            " Ports below 1024 require root: start as root with twistd's --uid and --gid, "
            f"or use {option} tcp:1110"
        )
    if getattr(error.socketError, "errno", None) == errno.EADDRNOTAVAIL:
        return " This machine does not have that address."
    return f" Is another server listening there? Choose another port with {option}"
