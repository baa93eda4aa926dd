"""Which of root's privileges a server keeps when twistd changes its user."""

from __future__ import annotations

import os

from twisted.application.service import IService, MultiService

from popserv.listening.listeners import CannotStart
from popserv.runtime.capabilities import SWITCHING, keep_only, keep_when_user_changes
from popserv.runtime.file_credentials import IS_SUPPORTED, obstacle


class OwnersService(MultiService):
    """Runs another service in a process that can access files as other users.

    Of root's privileges it keeps nothing else when twistd changes the user of the process.  A
    process that stays root stays as it is.

    :param has_workers: whether the programs that the process starts do the same.
    """

    def __init__(self, service: IService, *, has_workers: bool) -> None:
        super().__init__()
        service.setServiceParent(self)
        self._has_workers = has_workers

    def privilegedStartService(self) -> None:
        """Prepare for the change of the user."""
        super().privilegedStartService()
        if IS_SUPPORTED:
            keep_when_user_changes()

    def startService(self) -> None:
        """Give up the other privileges, before threads and workers start.

        :raises CannotStart: the process cannot become other users.
        """
        try:
            if IS_SUPPORTED and os.geteuid() != 0:
                keep_only(SWITCHING, for_programs=self._has_workers)
            reason = obstacle()
        except OSError as error:
            reason = f"its capabilities cannot be changed: {error.strerror}"
        if reason:
            raise CannotStart(
                f"popserv: --as-owners: maildrops cannot be accessed as other users: {reason}; "
                "start as root, or with CAP_SETUID and CAP_SETGID, or remove --as-owners"
            )
        super().startService()
