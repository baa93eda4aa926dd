"""Authentication with a portal of twisted.cred, which opens the mailbox of the user.

The portal's realm returns avatars of popserv's IMailbox or of twisted.mail's IMailboxPOP3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from twisted.cred.credentials import ICredentials
from twisted.cred.error import LoginFailed as CredLoginFailed
from twisted.cred.portal import Portal
from twisted.internet.defer import maybeDeferred
from twisted.mail.interfaces import IMailboxPOP3
from zope.interface import Interface

from popserv.auth.twisted_mail import adapt
from popserv.auth.withheld import withhold_secrets
from popserv.core.session import Release, call_release
from popserv.core.user_settings import ConfiguredUser, UnsupportedSettings
from popserv.errors import LoginFailed, MaildropUnavailable
from popserv.interfaces import (
    IAPOPCredentials,
    IAPOPTimestamps,
    IConfigurableRealm,
    ICredentialsSupport,
    IMailbox,
    IRelayedCredentials,
    ISASLRelay,
)
from popserv.messages.sizes import MakeDowngrader


class PortalAuthenticator:
    """Authenticates sessions with a portal; see :class:`popserv.core.session.Authenticator`.

    ``downgrader`` measures the messages of avatars of twisted.mail, for a server with UTF8.
    """

    def __init__(self, portal: Portal, downgrader: MakeDowngrader | None = None) -> None:
        self._portal = portal
        self._downgrader = downgrader

    def supports(self, credentials: type[Interface]) -> bool:
        """Return whether at least one user can log in with this kind of credentials now.

        A checker that does not provide ICredentialsSupport supports all kinds that it is
        registered for.
        """
        checker = self._portal.checkers.get(credentials)
        if ICredentialsSupport.providedBy(checker):
            return bool(checker.supports(credentials))
        return checker is not None

    def relayed_mechanisms(self) -> Mapping[bytes, bool]:
        """Return the mechanisms that another server offers now; see Authenticator."""
        checker: Any = self._portal.checkers.get(IRelayedCredentials)
        return checker.mechanisms() if ISASLRelay.providedBy(checker) else {}

    def make_timestamp(self, host: bytes) -> bytes | None:
        """Return a timestamp of the checker for APOP, or None if it accepts any."""
        checker: Any = self._portal.checkers.get(IAPOPCredentials)
        return checker.make_timestamp(host) if IAPOPTimestamps.providedBy(checker) else None

    async def authenticate(self, credentials: ICredentials) -> tuple[IMailbox, Release]:
        """Return the open mailbox, and the function that releases it.

        :raises LoginFailed: the checker refused the credentials; the cause is for the log.
        :raises popserv.errors.POPError: the maildrop could not be opened.
        """
        try:
            interface, avatar, logout = await self._login(credentials)
        except CredLoginFailed as error:
            raise LoginFailed from error
        if interface is IMailbox:
            return cast(IMailbox, avatar), logout
        try:
            return await adapt(cast(IMailboxPOP3, avatar), self._downgrader), logout
        except BaseException:
            await call_release(logout)
            raise

    async def _login(self, credentials: ICredentials) -> Any:
        """Do what ``Portal.login`` does; a result that is there at once costs no Deferred."""
        portal, checker = self._portal, self._checker_for(credentials)
        interfaces = (IMailbox, IMailboxPOP3)
        try:
            if checker is None:
                return await portal.login(credentials, None, *interfaces)
            avatar_id = await _result(checker.requestAvatarId(credentials))
        except CredLoginFailed:
            raise
        except Exception as error:
            withhold_secrets(error, credentials)
            raise
        if isinstance(avatar_id, ConfiguredUser):
            self._check_realm()
        return await _result(portal.realm.requestAvatar(avatar_id, None, *interfaces))

    def _checker_for(self, credentials: ICredentials) -> Any:
        """Return the checker that the portal would ask, or None to have the portal do it all."""
        if type(self._portal) is Portal:
            for kind, checker in self._portal.checkers.items():
                if kind.providedBy(credentials):
                    return checker
        return None

    def _check_realm(self) -> None:
        """Refuse a user with settings if the realm does not know of them."""
        if not IConfigurableRealm.providedBy(self._portal.realm):
            reason = "the realm does not support settings of single users"
            raise MaildropUnavailable from UnsupportedSettings(reason)


async def _result(outcome: Any) -> Any:
    """Return what a checker or a realm has returned, or what its Deferred fires with."""
    if isinstance(outcome, (bytes, tuple, ConfiguredUser)):
        return outcome
    return await maybeDeferred(lambda: outcome)
