"""The contracts that others fulfil, and nothing else.

Every method that touches storage returns an awaitable: a coroutine or a Deferred.
Message-numbers and deletion marks never reach a store: they are the session's.
A store refuses with an exception of :mod:`popserv.errors`; any other exception is
logged and answered ``-ERR [SYS/TEMP]``, its text kept from the client.
"""

# Methods of an interface have no self.
# mypy: disable-error-code="misc"

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.cred.credentials import ICredentials
from zope.interface import Attribute, Interface

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable

    from popserv.maildrop import Message, Snapshot
    from popserv.wire import Chunk


class IMailbox(Interface):
    """One user's mailbox, opened under an exclusive-access lock (RFC 1725 section 4)."""

    messages: Snapshot = Attribute(
        "The messages in order, as a Snapshot: what it holds does not change in a session."
    )

    def open(message: Message) -> Awaitable[Iterable[Chunk]]:
        """Return the message's bytes as stored, in chunks of at most some 100 KiB.

        A chunk that is not there yet is an awaitable of bytes.  The iterable's
        ``close``, if it has one, is called when the rest is not wanted.

        :raises popserv.errors.NoSuchMessage: the message has vanished.
        """

    def remove(messages: Iterable[Message]) -> Awaitable[None]:
        """Remove the messages for good; what has vanished by itself counts as removed.

        :raises popserv.errors.RemovalFailed: some are still there.
        """

    def release() -> Awaitable[None]:
        """Give up the exclusive-access lock.  Called once."""


class IMaildropFactory(Interface):
    """A store of mailboxes."""

    def open_maildrop(user: bytes) -> Awaitable[IMailbox]:
        """Open the user's mailbox under an exclusive-access lock.

        ``user`` is the avatar's name as the checker returned it.  A user without
        any mail has an empty mailbox.

        :raises popserv.errors.MaildropBusy: another session has it.
        :raises popserv.errors.MaildropUnavailable: it is there but cannot be read.
        """


class IAPOPCredentials(ICredentials):
    """What APOP brings (RFC 1725 section 7): a name, and a digest that proves a shared secret.

    Not Twisted's ``IUsernameHashedPassword``: a checker that takes that would let
    one user in by PASS and by APOP, which RFC 1725 section 12 forbids.
    """

    username: bytes = Attribute("The name given.")

    def check_secret(secret: bytes) -> bool:
        """Tell, in time that depends on no secret, whether the digest was made from this one."""


class IAPOPChecker(Interface):
    """A credentials checker that takes IAPOPCredentials and knows for how many."""

    def offers_apop() -> bool:
        """Tell whether any user has an APOP secret now: only then do greetings have a timestamp."""
