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
    from collections.abc import Awaitable, Iterable, Mapping, Sequence

    from popserv.auth.passwords.scram_keys import ScramKeys
    from popserv.core.snapshot import Message, Snapshot
    from popserv.messages.framing import Chunk


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


class IRetrievalRecord(IMailbox):
    """A mailbox that remembers from session to session what was retrieved, for LAST (RFC 1460)."""

    def last_retrieved() -> Awaitable[Message | None]:
        """Return the last in order of the messages that earlier sessions retrieved, if any."""

    def record_retrieved(messages: Iterable[Message]) -> Awaitable[None]:
        """Remember that these were retrieved; what has vanished or cannot be noted is passed over.

        Asked once, at the end of a session that has retrieved some, after :meth:`remove`.
        """


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


class IScramCredentials(ICredentials):
    """One SCRAM exchange (RFC 5802) under way: the client has named itself, and waits.

    Providers provide one of the two interfaces below, for the hash they use.
    """

    username: bytes = Attribute("The name given.")

    def check_keys(keys: ScramKeys) -> Awaitable[bool]:
        """Challenge the client with these keys' salt and rounds; tell whether it proved them.

        To a client that did the server has then proved itself in turn.

        :raises popserv.errors.POPError: the client broke the exchange off, or its form.
        """


class IScramSHA256Credentials(IScramCredentials):
    """SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 7677)."""


class IScramSHA1Credentials(IScramCredentials):
    """SCRAM-SHA-1 (RFC 5802)."""


class ICertificateCredentials(ICredentials):
    """A TLS client certificate that was verified, for EXTERNAL (RFC 4422 appendix A)."""

    names: Sequence[bytes] = Attribute("The users' names that the certificate vouches for.")

    username: bytes = Attribute(
        "The one among the names that the client asked to be, empty if it did not say; "
        "a checker that lets it in puts the user's name here, for the log."
    )


class ITokenCredentials(ICredentials):
    """A bearer token (RFC 6750), from OAUTHBEARER or XOAUTH2 (RFC 7628)."""

    username: bytes = Attribute(
        "The name given, empty if none was; a checker that lets it in puts the user's name here, "
        "for the log."
    )

    token: bytes = Attribute("The token, as it came.")

    def refuse(reason: Mapping[str, str]) -> Awaitable[None]:
        """Tell the client why, as RFC 7628 section 3.2.2 has it, before the login fails.

        ``reason`` is the error as a flat JSON object: ``status``, and where known
        ``scope`` and ``openid-configuration``.
        """


class IRemoteUserCredentials(ICredentials):
    """What RPOP brings (RFC 1225, RPOP): a user of the client's host asks for a maildrop.

    Nothing of it proves anything but the address and the port, and these not much.
    """

    username: bytes = Attribute("The name given by USER: whose maildrop is asked for.")

    remote_user: bytes = Attribute("Who the client says that its user is, on its own host.")

    host: str = Attribute("The client's IP address.")

    port: int = Attribute("The client's TCP port; whoever checks must refuse one that anybody has.")


class IPreauthenticated(ICredentials):
    """A user for whom somebody else has vouched before a word was said.

    Only a portal whose every client has passed that somebody may have a checker for these.
    """

    username: bytes = Attribute("The user's name.")


class ICredentialsSupport(Interface):
    """A credentials checker that knows which of its kinds of credentials can succeed now."""

    def supports(credentials: type[Interface]) -> bool:
        """Tell whether to offer clients what makes these credentials."""
