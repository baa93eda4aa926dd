"""A mailbox that another user owns: all that it does is done with that user's file credentials."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Iterator, Sequence
from operator import length_hint
from typing import Any

from zope.interface import directlyProvides, providedBy

from popserv.core.snapshot import Message, Snapshot
from popserv.messages.details import MessageDetails
from popserv.messages.framing import Chunk
from popserv.runtime.file_credentials import (
    FileCredentials,
    acting_as,
    run_as,
    switch,
    switch_back,
)


class OwnedMailbox:
    """A mailbox whose files are accessed with ``credentials``.

    It provides the interfaces that the mailbox provides.
    """

    def __init__(self, mailbox: Any, credentials: FileCredentials) -> None:
        self.messages: Snapshot = mailbox.messages
        self._mailbox = mailbox
        self._credentials = credentials
        directlyProvides(self, providedBy(mailbox))

    async def open(self, message: Message) -> Iterable[Chunk]:
        """See IMailbox."""
        body = await run_as(self._credentials, self._mailbox.open, message)
        # What has been read as a whole needs no more access.
        return body if isinstance(body, tuple) else _OwnedBody(body, self._credentials)

    def read_cached(self, message: Message, maximum: int) -> bytes | None:
        """See ICachedMessages."""
        # As acting_as, which takes longer.
        previous = switch(self._credentials)
        try:
            octets: bytes | None = self._mailbox.read_cached(message, maximum)
        finally:
            switch_back(previous)
        return octets

    def remove(self, messages: Iterable[Message]) -> Awaitable[None]:
        """See IMailbox."""
        return run_as(self._credentials, self._mailbox.remove, messages)

    def release(self) -> Awaitable[None]:
        """See IMailbox."""
        return run_as(self._credentials, self._mailbox.release)

    def discard_sizes(self) -> Awaitable[None]:
        """See ISizeCache."""
        return run_as(self._credentials, self._mailbox.discard_sizes)

    def last_retrieved(self) -> Awaitable[Message | None]:
        """See IRetrievalRecord."""
        return run_as(self._credentials, self._mailbox.last_retrieved)

    def record_retrieved(self, messages: Iterable[Message]) -> Awaitable[None]:
        """See IRetrievalRecord."""
        return run_as(self._credentials, self._mailbox.record_retrieved, messages)

    def delivery_times(self) -> Sequence[float]:
        """See IDeliveryTimes."""
        with acting_as(self._credentials):
            times: Sequence[float] = self._mailbox.delivery_times()
        return times

    def details(self) -> Sequence[MessageDetails]:
        """See IMessageDetails."""
        with acting_as(self._credentials):
            details: Sequence[MessageDetails] = self._mailbox.details()
        return details


class _OwnedBody:
    """The chunks of a body, each of which is read with ``credentials``."""

    def __init__(self, body: Iterable[Chunk], credentials: FileCredentials) -> None:
        self._body = body
        self._credentials = credentials

    def __iter__(self) -> Iterator[Chunk]:
        with acting_as(self._credentials):
            return _OwnedChunks(iter(self._body), self._credentials)

    def close(self) -> None:
        """Close the body; see IMailbox.open."""
        close = getattr(self._body, "close", None)
        if close is not None:
            with acting_as(self._credentials):
                close()


class _OwnedChunks:
    def __init__(self, chunks: Iterator[Chunk], credentials: FileCredentials) -> None:
        self._chunks = chunks
        self._credentials = credentials

    def __iter__(self) -> Iterator[Chunk]:
        return self

    def __next__(self) -> Chunk:
        with acting_as(self._credentials):
            chunk = next(self._chunks)
        return chunk if isinstance(chunk, bytes) else run_as(self._credentials, _same, chunk)

    def __length_hint__(self) -> int:
        return length_hint(self._chunks, 1)


def _same(chunk: Awaitable[bytes]) -> Awaitable[bytes]:
    return chunk
