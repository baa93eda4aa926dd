"""From a portal's avatar, ours or twisted.mail's, to the mailbox of a session."""

from __future__ import annotations

from typing import cast

from twisted.cred.credentials import ICredentials
from twisted.cred.error import LoginFailed as CredLoginFailed
from twisted.cred.portal import Portal
from twisted.mail.interfaces import IMailboxPOP3
from zope.interface import Interface

from popserv.auth.twisted_mail import adapt
from popserv.core.session import Release, call_release
from popserv.errors import LoginFailed
from popserv.interfaces import ICredentialsSupport, IMailbox


class PortalAuthenticator:
    """Logs in to a portal whose realm knows IMailbox or IMailboxPOP3."""

    def __init__(self, portal: Portal) -> None:
        self._portal = portal

    def supports(self, credentials: type[Interface]) -> bool:
        """Tell whether some user can log in by credentials of this kind now."""
        checker = self._portal.checkers.get(credentials)
        if ICredentialsSupport.providedBy(checker):
            return bool(checker.supports(credentials))
        return checker is not None

    async def authenticate(self, credentials: ICredentials) -> tuple[IMailbox, Release]:
        """Return the open mailbox and what gives it up again.

        :raises LoginFailed: for whatever reason; the log knows it.
        :raises popserv.errors.POPError: what opening the maildrop raised.
        """
        try:
            interface, avatar, logout = await self._portal.login(
                credentials, None, IMailbox, IMailboxPOP3
            )
        except CredLoginFailed as reason:
            raise LoginFailed from reason
        if interface is IMailbox:
            return cast(IMailbox, avatar), logout
        try:
            return await adapt(cast(IMailboxPOP3, avatar)), logout
        except BaseException:
            await call_release(logout)
            raise
