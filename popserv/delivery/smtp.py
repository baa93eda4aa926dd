"""Final delivery for the SMTP servers of Twisted (:mod:`twisted.mail.smtp`).

Twisted asks for an object for each recipient of a message, gives each of them all lines, and sends
one reply for all of them.  Here the first object writes the lines to a file, and the message is
delivered when all of them have heard of its end.

This module imports the reactor, as Twisted's does.
"""

from __future__ import annotations

from collections.abc import Callable
from email.utils import formatdate
from functools import partial
from socket import gethostname
from typing import Any

from twisted.cred.portal import IRealm
from twisted.internet.defer import Deferred
from twisted.mail.interfaces import IMessageDelivery, IMessageDeliveryFactory, IMessageSMTP
from twisted.mail.smtp import ESMTP, SMTPBadRcpt, SMTPServerError
from twisted.python.failure import Failure
from zope.interface import Interface, implementer

from popserv.delivery.addresses import InvalidArgument, parse_argument
from popserv.delivery.delivering import deliver_to, deliver_to_all
from popserv.delivery.events import log_refused_message, log_refused_recipient
from popserv.delivery.factory import MAX_OCTETS
from popserv.delivery.incoming import return_path
from popserv.delivery.outcomes import (
    BARE_LF,
    NO_SUCH_USER,
    SYNTAX,
    TOO_LARGE,
    Reply,
    reply_to,
)
from popserv.delivery.recipients import Recipient, Recipients
from popserv.interfaces import IFinalDelivery, IJointDelivery
from popserv.maildrops.spooling import discard, spool_file


class DeliveryESMTP(ESMTP):
    """An ESMTP server that tells what has become of a message.

    That of Twisted replies 550 whatever has failed, and mail then goes back to its sender that
    could have been delivered an hour later.
    """

    def _messageHandled(self, resultList: list[tuple[bool, Any]]) -> None:
        for success, result in resultList:
            if not success and isinstance(result.value, SMTPServerError):
                self.sendCode(result.value.code, result.value.resp.encode("ascii"))
                return
        super()._messageHandled(resultList)


@implementer(IMessageDeliveryFactory)
class SMTPDeliveryFactory:
    """Delivers to a store what an SMTP server of Twisted receives.

    It is the server's ``deliveryFactory``, or the avatar of its portal (:class:`SMTPRealm`).

    :param store: takes the mail.  If it provides :class:`popserv.interfaces.IJointDelivery`, all
        recipients get a message, or none; with any other, those get it again from whom a later one
        has kept it.
    :param recipients: finds the maildrops of recipients.
    :param max_octets: the limit of a message as it is stored, 0 for none.
    """

    def __init__(
        self, store: IFinalDelivery, recipients: Recipients, *, max_octets: int = MAX_OCTETS
    ) -> None:
        self.store = store
        self.recipients = recipients
        self.max_octets = max_octets

    def getMessageDelivery(self) -> SMTPDelivery:
        """Return what delivers the next message of a connection."""
        return SMTPDelivery(self)


@implementer(IRealm)
class SMTPRealm:
    """The realm of twisted.cred for an SMTP server of Twisted: who may deliver.

    The portal's checkers decide that.  ``AllowAnonymousAccess`` of :mod:`twisted.cred.checkers`
    lets every client deliver, as a mail exchanger must; without it, MAIL is refused before AUTH.

    :param deliveries: the avatar of every client.
    """

    def __init__(self, deliveries: IMessageDeliveryFactory) -> None:
        self._deliveries = deliveries

    def requestAvatar(
        self, avatarId: object, mind: object, *interfaces: type[Interface]
    ) -> tuple[type[Interface], IMessageDeliveryFactory, Callable[[], None]]:
        """Return the avatar; see IRealm.

        :raises NotImplementedError: IMessageDeliveryFactory is not one of the interfaces.
        """
        if IMessageDeliveryFactory not in interfaces:
            raise NotImplementedError("the avatars of this realm provide IMessageDeliveryFactory")
        return IMessageDeliveryFactory, self._deliveries, _leave


@implementer(IMessageDelivery)
class SMTPDelivery:
    """The delivery of one message."""

    def __init__(self, factory: SMTPDeliveryFactory) -> None:
        self._factory = factory
        self._peer = ""
        self._sender = b""
        self._message: _Message | None = None

    def validateFrom(self, helo: tuple[Any, Any], origin: Any) -> Any:
        """Accept any sender."""
        self._peer = _text(helo[1])
        self._sender = bytes(origin)
        return origin

    def validateTo(self, user: Any) -> Deferred[Any]:
        """Find the maildrop of a recipient; return a Deferred of what makes its IMessageSMTP.

        It fails with SMTPBadRcpt if there is none, and with SMTPServerError if the address is
        invalid, or the maildrop cannot be found now.
        """
        return Deferred.fromCoroutine(self._find(user))

    async def _find(self, user: Any) -> Any:
        text = bytes(user.dest)
        try:
            address, _ = parse_argument(b"TO", b"TO:<%b>" % text)
        except InvalidArgument as error:
            raise _error(SYNTAX) from error
        try:
            recipient = await self._factory.recipients.find(address)
        except Exception as error:
            reply = reply_to(error)
            log_refused_recipient(self._peer, self._sender, text, reply, error)
            if reply is NO_SUCH_USER:
                raise SMTPBadRcpt(user, reply.code, f"{reply.status} {reply.text}") from error
            raise _error(reply) from error
        return partial(self._begin, recipient)

    def _begin(self, recipient: Recipient) -> _Part:
        if self._message is None:
            self._message = _Message(self._factory, self._peer, self._sender)
        return self._message.add(recipient)

    def receivedHeader(self, helo: tuple[Any, Any], origin: Any, recipients: Any) -> bytes:
        """Return the field Received, which does not tell one recipient of another."""
        name, host = _text(helo[0]), _text(helo[1])
        field = f"Received: from {name} ([{host}]) by {gethostname()}; {formatdate()}"
        return field.encode("ascii", "replace")


class _Message:
    """The text of a message, and its recipients."""

    def __init__(self, factory: SMTPDeliveryFactory, peer: str, sender: bytes) -> None:
        self._factory = factory
        self._peer = peer
        self._sender = sender
        self._parts: list[_Part] = []
        self._waiting: list[Deferred[None]] = []
        self._octets = 0
        self._file = spool_file()
        self._file.write(return_path(sender))

    def add(self, recipient: Recipient) -> _Part:
        """Return what is told of the message for a recipient."""
        part = _Part(self, recipient, is_first=not self._parts)
        self._parts.append(part)
        return part

    def write(self, line: bytes) -> None:
        """Add a line to the text.

        :raises SMTPServerError: it is refused.
        """
        if b"\n" in line:
            raise self._refuse(BARE_LF, "it has an LF without a CR")
        # The wire form of what is stored has then the octets that were received.
        text = line + (b"\r\n" if line.endswith(b"\r") else b"\n")
        try:
            self._file.write(text)
        except OSError as error:
            raise self._refuse(reply_to(error), str(error)) from error
        self._octets += len(text)
        if 0 < self._factory.max_octets < self._octets:
            why = f"it has more than {self._factory.max_octets} octets"
            raise self._refuse(TOO_LARGE, why)

    def _refuse(self, reply: Reply, why: str) -> SMTPServerError:
        log_refused_message(self._peer, self._sender, len(self._parts), reply, why)
        self.close()
        error = _error(reply)
        # Twisted writes this one as it is.
        error.resp = error.resp.encode("ascii")
        return error

    def end(self) -> Deferred[None]:
        """Return a Deferred of what becomes of the message, once for each recipient."""
        self._waiting.append(Deferred())
        waiting = self._waiting[-1]
        if len(self._waiting) == len(self._parts):
            Deferred.fromCoroutine(self._deliver()).addBoth(self._done)
        return waiting

    async def _deliver(self) -> None:
        """Deliver the message.

        :raises SMTPServerError: it is not delivered to all recipients.
        """
        store, file = self._factory.store, self._file
        recipients = list({part.recipient.user: part.recipient for part in self._parts}.values())
        described = (self._peer, self._sender, self._octets)
        if IJointDelivery.providedBy(store):
            reply = await deliver_to_all(IJointDelivery(store), recipients, file, *described)
            if reply.code != _DONE:
                raise _error(reply)
            return
        for recipient in recipients:
            reply = await deliver_to(store, recipient, file, *described)
            if reply.code != _DONE:
                # The others get it when it is sent again.
                raise _error(reply)

    def _done(self, result: Failure | None) -> None:
        self.close()
        for each in self._waiting:
            each.callback(result)

    def close(self) -> None:
        """Drop the text."""
        discard(self._file)


@implementer(IMessageSMTP)
class _Part:
    """A message for one of its recipients."""

    def __init__(self, message: _Message, recipient: Recipient, *, is_first: bool) -> None:
        self.recipient = recipient
        self._message = message
        self._is_first = is_first

    def lineReceived(self, line: bytes) -> None:
        """See IMessageSMTP."""
        if self._is_first:
            self._message.write(line)

    def eomReceived(self) -> Deferred[None]:
        """See IMessageSMTP."""
        return self._message.end()

    def connectionLost(self) -> None:
        """See IMessageSMTP."""
        self._message.close()


_DONE = 250


def _leave() -> None:
    """End the session of a client, which holds nothing."""


def _error(reply: Reply) -> SMTPServerError:
    return SMTPServerError(reply.code, f"{reply.status} {reply.text}")


def _text(word: Any) -> str:
    """Return the name or the address of a client, of which Twisted has none, bytes or str."""
    text = word.decode("ascii", "replace") if isinstance(word, bytes) else word or "unknown"
    return str(text)
