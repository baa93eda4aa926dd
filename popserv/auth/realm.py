"""The realm of twisted.cred whose avatars are open mailboxes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm
from twisted.internet.defer import Deferred
from zope.interface import Interface, implementer

from popserv.auth.names import name_octets
from popserv.interfaces import IMailbox, IMaildropFactory
from popserv.runtime.coroutines import run_eagerly

Avatar = tuple[type[Interface], object, Callable[[], Any]]


@implementer(IRealm)
class MaildropRealm:
    """Opens the mailbox of a user whom a checker has authenticated.

    The avatar is the mailbox, which is locked.  Its logout function releases the lock.
    """

    def __init__(self, factory: IMaildropFactory) -> None:
        self._factory = factory

    def requestAvatar(
        self, avatarId: bytes | str | tuple[()], mind: object, *interfaces: type[Interface]
    ) -> Avatar | Deferred[Avatar]:
        """Open the maildrop of ``avatarId``; see IRealm.

        :raises NotImplementedError: IMailbox is not one of the interfaces.
        :raises UnauthorizedLogin: the user is anonymous.
        """
        if IMailbox not in interfaces:
            raise NotImplementedError("the avatars of this realm provide IMailbox only")
        user = name_octets(avatarId)
        if not isinstance(user, bytes):
            raise UnauthorizedLogin("an anonymous user has no maildrop")
        return run_eagerly(self._open(user))

    async def _open(self, user: bytes) -> Avatar:
        mailbox = await self._factory.open_maildrop(user)
        return IMailbox, mailbox, mailbox.release
