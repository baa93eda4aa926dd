"""The realm of twisted.cred whose avatars are open mailboxes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm
from twisted.internet.defer import Deferred
from zope.interface import Interface, implementer

from popserv.auth.names import AvatarId, name_octets
from popserv.core.user_settings import (
    NO_SETTINGS,
    ConfiguredUser,
    UnsupportedSettings,
    UserSettings,
)
from popserv.errors import MaildropUnavailable
from popserv.interfaces import (
    IConfigurableRealm,
    IConfigurableStore,
    IMailbox,
    IMaildropFactory,
)
from popserv.runtime.coroutines import run_eagerly

Avatar = tuple[type[Interface], object, Callable[[], Any]]


@implementer(IRealm, IConfigurableRealm)
class MaildropRealm:
    """Opens the mailbox of a user whom a checker has authenticated.

    The avatar is the mailbox, which is locked.  Its logout function releases the lock.
    """

    def __init__(self, factory: IMaildropFactory) -> None:
        self._factory = factory

    def requestAvatar(
        self, avatarId: AvatarId, mind: object, *interfaces: type[Interface]
    ) -> Avatar | Deferred[Avatar]:
        """Open the maildrop of ``avatarId``; see IRealm.

        :raises NotImplementedError: IMailbox is not one of the interfaces.
        :raises UnauthorizedLogin: the user is anonymous.
        :raises MaildropUnavailable: the store cannot honour the user's settings.
        """
        if IMailbox not in interfaces:
            raise NotImplementedError("the avatars of this realm provide IMailbox only")
        user = name_octets(avatarId)
        if not isinstance(user, bytes):
            raise UnauthorizedLogin("an anonymous user has no maildrop")
        settings = NO_SETTINGS
        if isinstance(avatarId, ConfiguredUser):
            settings = avatarId.settings.of_mailbox()
        return run_eagerly(self._open(user, settings))

    async def _open(self, user: bytes, settings: UserSettings) -> Avatar:
        factory: Any = self._factory
        if settings == NO_SETTINGS:
            mailbox = await factory.open_maildrop(user)
        else:
            try:
                if not IConfigurableStore.providedBy(factory):
                    raise UnsupportedSettings("the store does not support settings of single users")
                mailbox = await factory.open_configured(user, settings)
            except UnsupportedSettings as error:
                raise MaildropUnavailable from error
        return IMailbox, mailbox, mailbox.release
