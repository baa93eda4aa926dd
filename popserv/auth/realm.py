"""The realm whose avatars are open maildrops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm
from twisted.internet.defer import Deferred
from zope.interface import Interface, implementer

from popserv.interfaces import IMailbox, IMaildropFactory

Avatar = tuple[type[Interface], object, Callable[[], Any]]


@implementer(IRealm)
class MaildropRealm:
    """Turns a name that a checker vouched for into that user's open mailbox.

    The avatar *is* the mailbox, under its lock; its logout gives the lock up.
    """

    def __init__(self, factory: IMaildropFactory) -> None:
        self._factory = factory

    def requestAvatar(
        self, avatarId: bytes | tuple[()], mind: object, *interfaces: type[Interface]
    ) -> Deferred[Avatar]:
        """Open the maildrop of ``avatarId``; an anonymous one has none."""
        if IMailbox not in interfaces:
            raise NotImplementedError("this realm's only avatars are IMailbox")
        if not isinstance(avatarId, bytes):
            raise UnauthorizedLogin("an anonymous user has no maildrop")
        return Deferred.fromCoroutine(self._open(avatarId))

    async def _open(self, user: bytes) -> Avatar:
        mailbox = await self._factory.open_maildrop(user)
        return IMailbox, mailbox, mailbox.release
