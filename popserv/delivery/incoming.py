"""A message while it is received: who sends it to whom, its text, and why it is refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import BinaryIO

from popserv.delivery.addresses import Address
from popserv.delivery.data import DataReader
from popserv.delivery.outcomes import BARE_LF, TOO_LARGE, Reply, reply_to
from popserv.delivery.recipients import Recipient
from popserv.delivery.spool import Spool
from popserv.runtime.threads import RunInThread


class MessageRefused(Exception):
    """A message cannot be delivered to any of its recipients; the text says why, for the log."""

    def __init__(self, reply: Reply, why: str) -> None:
        super().__init__(why)
        self.reply = reply


@dataclass
class Transaction:
    """What MAIL and RCPT have said of a message."""

    sender: Address
    is_utf8: bool
    recipients: list[Recipient] = field(default_factory=list)


def return_path(sender: bytes) -> bytes:
    """Return the field that final delivery adds to a message (RFC 5321 section 4.4)."""
    return b"Return-Path: <%b>\n" % sender


class IncomingMessage:
    """The text of a message after DATA, with a Return-Path field before it.

    ``max_octets`` is the limit of its wire form without that, 0 for none, and ``run`` calls
    functions in threads.

    :ivar must_flush: whether :meth:`flush` must be called before more is received.
    """

    def __init__(self, sender: bytes, max_octets: int, run: RunInThread) -> None:
        self.must_flush = False
        self._max_octets = max_octets
        self._reader = DataReader()
        self._spool = Spool(run)
        self._spool.add(return_path(sender))
        self._refusal: MessageRefused | None = None

    @property
    def octets(self) -> int:
        """The octets of the wire form that were received."""
        return self._reader.octets

    def feed(self, octets: bytes) -> bytes | None:
        """Receive input; return what follows the end of the message, None if it has not ended."""
        text, rest = self._reader.feed(octets)
        if self._refusal is None:
            if self._reader.has_bare_lf:
                self._refuse(BARE_LF, "it has an LF without a CR")
            elif 0 < self._max_octets < self.octets:
                self._refuse(TOO_LARGE, f"it has more than {self._max_octets} octets")
            else:
                self.must_flush = self._spool.add(text)
        return rest

    def _refuse(self, reply: Reply, why: str) -> None:
        self._refusal = MessageRefused(reply, why)
        self.must_flush = False
        self._spool.close()

    async def flush(self) -> None:
        """Write what is in memory to a temporary file; if that fails, the message is refused."""
        self.must_flush = False
        try:
            await self._spool.flush()
        except Exception as error:
            self._refuse(reply_to(error), str(error))

    async def finish(self) -> BinaryIO:
        """Return a file with the message as it is stored, which :meth:`close` closes.

        :raises MessageRefused: it cannot be delivered.
        """
        if self._refusal is not None:
            raise self._refusal
        try:
            return await self._spool.finish()
        except Exception as error:
            raise MessageRefused(reply_to(error), str(error)) from error

    def close(self) -> None:
        """Drop the text."""
        self._spool.close()
