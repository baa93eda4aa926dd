"""Copies the messages of a user's mailbox to another store, as far as they are not there.

A message is there if the other mailbox has its unique-id.  So a copy that was interrupted is
continued by another one, and nothing is recorded anywhere.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from inspect import isawaitable
from typing import Any, Protocol

from popserv.core.printable import printable
from popserv.core.snapshot import Message, Snapshot
from popserv.errors import DeliveryRefused, MessageChanged, NoSuchMessage, POPError
from popserv.interfaces import IDelivery, IDeliveryTimes, IMessageDetails
from popserv.messages.details import MessageDetails
from popserv.messages.framing import Chunk
from popserv.messages.octets import OctetCounter
from popserv.runtime.threads import RunInThread

COMMIT_MESSAGES = 500
"""The number of messages after which they become visible at the destination."""

COMMIT_OCTETS = 1 << 25
"""The octets after which they do."""

_NO_UNIQUE_ID = "the server gives it no unique-id, so that it would be copied again and again"

OpenBody = Callable[[], Awaitable[Iterable[Chunk]]]


class Source(Protocol):
    """The messages of a user, and what is known of them."""

    @property
    def messages(self) -> Snapshot:
        """The messages in order; one without a unique-id has an empty one."""

    def known_details(self, message: Message) -> MessageDetails:
        """Return what is known of a message without reading it."""

    async def fetch(self, message: Message) -> tuple[MessageDetails, OpenBody]:
        """Return what is known of a message, and a function that opens its octets.

        :raises POPError: the message cannot be read.
        :raises DeliveryRefused: no store could keep it.
        :raises OSError: the source cannot be read any more.
        """

    def remarks(self) -> Sequence[str]:
        """Return lines about what was odd in messages that were fetched."""


class StoreSource:
    """An open mailbox of a store; ``details`` are those of its messages."""

    def __init__(self, mailbox: Any, details: Sequence[MessageDetails]) -> None:
        self.messages: Snapshot = mailbox.messages
        self._mailbox = mailbox
        self._details = details

    def known_details(self, message: Message) -> MessageDetails:
        """See Source."""
        return self._details[message.position]

    async def fetch(self, message: Message) -> tuple[MessageDetails, OpenBody]:
        """See Source."""

        async def open_body() -> Iterable[Chunk]:
            return _Checked(await self._mailbox.open(message), message.octets)

        return self.known_details(message), open_body

    def remarks(self) -> Sequence[str]:
        """See Source."""
        return ()


async def read_details(mailbox: Any, run: RunInThread) -> Sequence[MessageDetails] | None:
    """Return the details of a mailbox's messages, or None if its store does not know them.

    :raises OSError: they cannot be read.
    :raises POPError: likewise.
    """
    if IMessageDetails.providedBy(mailbox):
        found = await run(mailbox.details)
        details: Sequence[MessageDetails] = await found if isawaitable(found) else found
        return details
    if IDeliveryTimes.providedBy(mailbox):
        return [MessageDetails(delivered) for delivered in await run(mailbox.delivery_times)]
    return None if len(mailbox.messages) else []


class _Checked:
    """The chunks of a message, which raise an error unless they have the octets of LIST."""

    def __init__(self, body: Iterable[Chunk], octets: int) -> None:
        self._body = body
        self._octets = octets
        self._counter = OctetCounter()

    def __iter__(self) -> Iterator[Chunk]:
        for chunk in self._body:
            yield self._count(chunk) if isinstance(chunk, bytes) else self._read(chunk)
        if self._counter.finish() != self._octets:
            raise MessageChanged

    async def _read(self, chunk: Awaitable[bytes]) -> bytes:
        return self._count(await chunk)

    def _count(self, chunk: bytes) -> bytes:
        self._counter.feed(chunk)
        return chunk

    def close(self) -> None:
        """Close the body."""
        close = getattr(self._body, "close", None)
        if close is not None:
            close()


@dataclass
class Copied:
    """What was done: the numbers of messages copied and there before, and lines about others.

    ``remarks`` are lines about messages that were copied.
    """

    copied: int = 0
    present: int = 0
    left_out: list[str] = field(default_factory=list)
    remarks: Sequence[str] = ()


async def copy_messages(
    source: Source,
    delivery: IDelivery,
    report: Callable[[int, int], object] = lambda position, count: None,
) -> Copied:
    """Copy the messages that the destination does not have, in order.

    ``report`` is called with the position of each message, and with how many there are.

    What was copied before an error is there.

    :raises OSError: the source or the destination cannot be used any more.
    :raises POPError: likewise.
    """
    result = Copied()
    messages = octets = 0
    try:
        for message in source.messages:
            report(message.position, len(source.messages))
            if not await _copy_message(source, delivery, message, result):
                continue
            messages, octets = messages + 1, octets + message.octets
            if messages >= COMMIT_MESSAGES or octets >= COMMIT_OCTETS:
                await delivery.commit()
                messages = octets = 0
    except Exception:
        with suppress(Exception):
            await delivery.commit()
        raise
    await delivery.commit()
    result.remarks = source.remarks()
    return result


def compare_messages(source: Source, present: Container[bytes]) -> Copied:
    """Return what would be copied to a destination that has messages with some unique-ids."""
    result = Copied()
    for message in source.messages:
        if not message.uid:
            result.left_out.append(_not_copied(message, _NO_UNIQUE_ID))
        elif message.uid in present:
            result.present += 1
        else:
            result.copied += 1
    return result


async def _copy_message(
    source: Source, delivery: IDelivery, message: Message, result: Copied
) -> bool:
    """Copy a message unless it is there; return whether it was copied."""
    try:
        if not message.uid:
            raise DeliveryRefused(_NO_UNIQUE_ID)
        if message.uid in delivery.unique_ids:
            await delivery.deliver(message.uid, source.known_details(message), _nothing)
            result.present += 1
            return False
        await delivery.deliver(message.uid, *await source.fetch(message))
    except NoSuchMessage:
        # It was removed meanwhile.
        return False
    except (DeliveryRefused, POPError) as error:
        # The text of a POPError is for clients, and has no details.
        reason = error.__cause__ if isinstance(error.__cause__, OSError) else error
        result.left_out.append(_not_copied(message, reason))
        return False
    result.copied += 1
    return True


def _not_copied(message: Message, reason: object) -> str:
    number, uid = message.position + 1, printable(message.uid)
    return f"message {number}, unique-id {uid}, is not copied: {reason}"


async def _nothing() -> Iterable[Chunk]:
    return ()
