"""LMTP (RFC 2033): takes mail from a mail transfer agent, with a reply for each recipient.

Rules of this file:
 1. A recipient gets 250 only after the store has said that the message is durable.
 2. At most MAX_IN_MEMORY octets of a message are in memory.
 3. The text of an exception is for the log, and is not sent.

The class does not build on that of Twisted's SMTP: it has one reply for all recipients, adds lines
to some messages, and splits a message into lines, which costs more than their delivery.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, BinaryIO

from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from popserv.delivery.addresses import Address, InvalidArgument, parse_argument
from popserv.delivery.connection import OrderedConnection
from popserv.delivery.delivering import deliver_to
from popserv.delivery.events import MAX_REFUSED, log_refused_message, log_refused_recipient
from popserv.delivery.incoming import IncomingMessage, MessageRefused, Transaction
from popserv.delivery.outcomes import (
    SYNTAX,
    TOO_LARGE,
    TOO_MANY_RECIPIENTS,
    UNKNOWN_PARAMETER,
    Reply,
    reply_to,
)
from popserv.delivery.recipients import Recipient

if TYPE_CHECKING:
    from popserv.delivery.factory import LMTPFactory

MAX_LINE = 2048
"""The maximum octets of a command; RFC 5321 section 4.5.3.1.4 and its extensions require 1,200."""

MAX_RECIPIENTS = 1000
"""The maximum recipients of a message; RFC 5321 section 4.5.3.1.8 requires 100."""

MAX_BAD_COMMANDS = 20
"""The consecutive invalid commands after which the connection is closed."""

_OK = Reply(250, "2.0.0", "ok")
_UNKNOWN_COMMAND = Reply(500, "5.5.1", "unknown command")
_BAD_SEQUENCE = Reply(503, "5.5.1", "bad sequence of commands")


class LMTPServer(OrderedConnection):
    """A connection of a mail transfer agent."""

    factory: LMTPFactory
    _is_greeted = False
    _bad_commands = 0
    _refused = 0

    def __init__(self) -> None:
        super().__init__()
        self._transaction: Transaction | None = None
        self._message: IncomingMessage | None = None

    def connectionMade(self) -> None:
        """Send the greeting, unless there are too many connections."""
        self.idle_timeout = self.factory.idle_timeout
        super().connectionMade()
        if self.factory.admit(self):
            self.transport.write(b"220 %b LMTP server ready\r\n" % self.factory.host)
        else:
            self.close(Reply(421, "4.3.2", "too many connections, try again later"))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Forget a message that has not ended; a delivery that has begun goes on."""
        self.factory.remove(self)
        super().connectionLost(reason)

    def process_some(self) -> bool:
        """Process a command, or text of a message; see OrderedConnection."""
        if self._transaction is not None and self._message is not None:
            self._receive_text(self._transaction, self._message)
            return True
        line, end, rest = self.unprocessed.partition(b"\r\n")
        # Without an end, the last octet may be the CR of it.
        if len(line) > MAX_LINE + (not end):
            self.close(Reply(500, "5.5.2", "line too long, closing the connection"))
        elif end:
            self.unprocessed = rest
            self._receive_line(line)
        return bool(end)

    def end_if_idle(self) -> None:
        """Close if the server drains, unless a message is on its way."""
        if self.factory.is_draining and self._transaction is None:
            self.close(Reply(421, "4.3.2", "the server is stopping, try again later"))

    def _receive_line(self, line: bytes) -> None:
        keyword, _, argument = line.partition(b" ")
        if keyword.upper() != b"QUIT":
            self.end_if_idle()
        if self.is_closing:
            return
        command = _COMMANDS.get(keyword.upper())
        reply = _UNKNOWN_COMMAND if command is None else command(self, argument.strip(b" "))
        if reply is None:
            self._bad_commands = 0
            return
        if keyword.upper() in (b"MAIL", b"RCPT") and reply not in (_OK, _BAD_SEQUENCE):
            self.note_refusal(reply, 1)
        self.reply(reply)
        self._bad_commands = self._bad_commands + 1 if 500 <= reply.code <= 503 else 0
        if self._bad_commands >= MAX_BAD_COMMANDS:
            self.close(Reply(421, "4.7.0", "too many bad commands, closing the connection"))

    def _lhlo(self, argument: bytes) -> Reply | None:
        if not argument:
            return SYNTAX
        self._is_greeted = True
        self.drop()
        limit = self.factory.max_octets
        lines = [
            self.factory.host,
            b"PIPELINING",
            b"SIZE %d" % limit if limit else b"SIZE",
            b"8BITMIME",
            b"SMTPUTF8",
            b"ENHANCEDSTATUSCODES",
        ]
        *first, last = lines
        text = b"".join(b"250-%b\r\n" % line for line in first) + b"250 %b\r\n" % last
        self.transport.write(text)
        return None

    def _helo(self, argument: bytes) -> Reply:
        return Reply(500, "5.5.1", "this is LMTP, use LHLO")

    def _mail(self, argument: bytes) -> Reply:
        if not self._is_greeted or self._transaction is not None:
            return _BAD_SEQUENCE
        try:
            sender, parameters = parse_argument(b"FROM", argument)
        except InvalidArgument:
            return SYNTAX
        size = parameters.get(b"SIZE", b"0")
        body = parameters.get(b"BODY", b"8BITMIME").upper()
        if not (size.isdigit() and len(size) <= 20 and body in (b"7BIT", b"8BITMIME")):
            return SYNTAX
        if parameters.keys() - {b"SIZE", b"BODY", b"SMTPUTF8"}:
            return UNKNOWN_PARAMETER
        is_utf8 = b"SMTPUTF8" in parameters
        if not _is_allowed(sender, is_utf8=is_utf8):
            return SYNTAX
        if self.factory.max_octets and int(size) > self.factory.max_octets:
            return TOO_LARGE
        self._transaction = Transaction(sender, is_utf8)
        return _OK

    def _rcpt(self, argument: bytes) -> Reply | None:
        transaction = self._transaction
        if transaction is None:
            return _BAD_SEQUENCE
        try:
            address, parameters = parse_argument(b"TO", argument)
        except InvalidArgument:
            return SYNTAX
        if parameters:
            return UNKNOWN_PARAMETER
        if not (address.text and _is_allowed(address, is_utf8=transaction.is_utf8)):
            return SYNTAX
        if len(transaction.recipients) >= MAX_RECIPIENTS:
            return TOO_MANY_RECIPIENTS
        self.run(self._find(transaction, address))
        return None

    async def _find(self, transaction: Transaction, address: Address) -> None:
        try:
            recipient = await self.factory.recipients.find(address)
        except Exception as error:
            reply = reply_to(error)
            self._refused += 1
            if self._refused <= MAX_REFUSED:
                sender = transaction.sender.text
                log_refused_recipient(self.peer, sender, address.text, reply, error)
            self.note_refusal(reply, 1)
            self.reply(reply)
        else:
            transaction.recipients.append(recipient)
            self.reply(Reply(250, "2.1.5", "recipient ok"))

    def _data(self, argument: bytes) -> Reply | None:
        if self._transaction is None or not self._transaction.recipients:
            return _BAD_SEQUENCE
        if argument:
            return SYNTAX
        sender, factory = self._transaction.sender.text, self.factory
        self._message = IncomingMessage(sender, factory.max_octets, factory.run)
        self.transport.write(b"354 send the message, end with a line that is a single dot\r\n")
        return None

    def _rset(self, argument: bytes) -> Reply:
        self.drop()
        return _OK

    def _noop(self, argument: bytes) -> Reply:
        return _OK

    def _vrfy(self, argument: bytes) -> Reply:
        return Reply(252, "2.5.0", "cannot verify, send RCPT")

    def _quit(self, argument: bytes) -> None:
        self.close(Reply(221, "2.0.0", "closing the connection"))

    def drop(self) -> None:
        """Forget the message and its transaction."""
        if self._message is not None:
            self._message.close()
        self._transaction = self._message = None

    def _receive_text(self, transaction: Transaction, message: IncomingMessage) -> None:
        octets, self.unprocessed = self.unprocessed, b""
        rest = message.feed(octets)
        if rest is not None:
            self.unprocessed = rest
            self.run(self._end(transaction, message))
        elif message.must_flush:
            self.run(message.flush())

    async def _end(self, transaction: Transaction, message: IncomingMessage) -> None:
        """Deliver the message, or refuse it, with a reply for each recipient."""
        sender, recipients = transaction.sender.text, transaction.recipients
        try:
            file = await message.finish()
        except MessageRefused as refused:
            log_refused_message(self.peer, sender, len(recipients), refused.reply, str(refused))
            self.note_refusal(refused.reply, len(recipients))
            self.transport.write(refused.reply.encode() * len(recipients))
        else:
            for recipient in recipients:
                if self.is_closing:
                    # The client is gone, and will send the message to the others again.
                    break
                self.reply(await self.deliver(recipient, file, sender, message.octets))
        self.drop()
        if not self.unprocessed:
            self.end_if_idle()

    def note_refusal(self, reply: Reply, recipients: int) -> None:
        """Do nothing; called when a message is refused for recipients, before :meth:`deliver`.

        It is called for one recipient if the message is refused before any is known.
        """

    async def deliver(
        self, recipient: Recipient, message: BinaryIO, sender: bytes, octets: int
    ) -> Reply:
        """Deliver a message to a recipient, and return the reply; see deliver_to."""
        return await deliver_to(self.factory.store, recipient, message, self.peer, sender, octets)


def _is_allowed(address: Address, *, is_utf8: bool) -> bool:
    """Return whether an address is ASCII, or UTF-8 in a message with SMTPUTF8 (RFC 6531)."""
    try:
        address.text.decode("utf-8" if is_utf8 else "ascii")
    except UnicodeDecodeError:
        return False
    return True


_COMMANDS: Mapping[bytes, Callable[[LMTPServer, bytes], Reply | None]] = {
    b"LHLO": LMTPServer._lhlo,
    b"HELO": LMTPServer._helo,
    b"EHLO": LMTPServer._helo,
    b"MAIL": LMTPServer._mail,
    b"RCPT": LMTPServer._rcpt,
    b"DATA": LMTPServer._data,
    b"RSET": LMTPServer._rset,
    b"NOOP": LMTPServer._noop,
    b"VRFY": LMTPServer._vrfy,
    b"QUIT": LMTPServer._quit,
}
