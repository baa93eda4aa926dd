"""The store and the portal of a server for tests."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import Any

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import ICredentials
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import Portal
from zope.interface import Interface

from popserv.auth.realm import MaildropRealm
from popserv.core.snapshot import Message
from popserv.errors import MaildropBusy, RemovalFailed, TryLater
from popserv.maildrops.memory import MemoryMailbox, MemoryMaildrops
from popserv.testing.faulty.faults import ActiveFaults


class FaultyMaildrops(MemoryMaildrops):
    """Maildrops in memory with the faults ``lock_held`` and ``fail_removal``."""

    def __init__(self, faults: ActiveFaults) -> None:
        super().__init__()
        self.faults = faults
        self._sessions = count(1)

    async def open_maildrop(self, user: bytes) -> FaultyMailbox:
        """See IMaildropFactory."""
        if self.faults.current.lock_held or user in self.locked:
            raise MaildropBusy
        mailbox = FaultyMailbox(self, user, next(self._sessions))
        self.locked.add(user)
        return mailbox


class FaultyMailbox(MemoryMailbox):
    """One user's maildrop; ``session`` is a number that no other session has."""

    def __init__(self, maildrops: FaultyMaildrops, user: bytes, session: int) -> None:
        super().__init__(maildrops, user)
        self._faults = maildrops.faults
        self.session = session

    async def remove(self, messages: Iterable[Message]) -> None:
        """See IMailbox."""
        if self._faults.current.fail_removal:
            raise RemovalFailed(len(list(messages)))
        await super().remove(messages)


class FaultyPortal(Portal):
    """A portal with the faults ``refuse_logins`` and ``fail_logins``."""

    def __init__(self, maildrops: FaultyMaildrops, checkers: Iterable[ICredentialsChecker]) -> None:
        super().__init__(MaildropRealm(maildrops), checkers)
        self._faults = maildrops.faults

    def login(self, credentials: ICredentials, mind: object, *interfaces: type[Interface]) -> Any:
        """See Portal."""
        number, faults = self._faults.count_login(), self._faults.current
        if number <= faults.refuse_logins:
            raise UnauthorizedLogin("refuse_logins")
        if number <= faults.fail_logins:
            raise TryLater
        return super().login(credentials, mind, *interfaces)
