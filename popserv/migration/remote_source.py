"""A POP3 server as the source of a copy."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from email.utils import mktime_tz, parsedate_tz
from typing import BinaryIO

from popserv.core.snapshot import Message, Snapshot, is_unique_id, valid_unique_id
from popserv.errors import MessageTooLarge, TryLater
from popserv.maildrops.spooling import discard, spool_file
from popserv.messages.details import NO_DETAILS, MessageDetails
from popserv.messages.framing import Chunk
from popserv.migration.copying import OpenBody
from popserv.migration.fingerprints import header_fields
from popserv.migration.pop3_client import MAX_MESSAGE_OCTETS, CommandRefused
from popserv.migration.remote_side import RemoteMaildrop
from popserv.runtime.threads import RunInThread

_CHUNK = 1 << 16
_CRLF = re.compile(rb"(?<!\r)\r\n")
_RECEIVED = re.compile(rb"received[ \t]*:.*;(.*)", re.IGNORECASE | re.DOTALL)
_DATE = re.compile(rb"date[ \t]*:(.*)", re.IGNORECASE | re.DOTALL)
# A time zone can have any number of digits, and no file can have any time.
_TIMES = range(1 << 32)


class RemoteSource:
    """The messages of a session with a POP3 server, with LF for CRLF as Maildirs have them.

    POP3 does not tell when a message was delivered: it is the time in the first Received field, or
    in Date.  No flags are known.  ``run`` calls functions in threads.
    """

    def __init__(self, maildrop: RemoteMaildrop, run: RunInThread) -> None:
        self.messages = Snapshot(maildrop.sizes, distinct_unique_ids(maildrop.unique_ids))
        self._maildrop = maildrop
        self._run = run
        self._file: BinaryIO | None = None

    def known_details(self, message: Message) -> MessageDetails:
        """See Source."""
        return NO_DETAILS

    async def fetch(self, message: Message) -> tuple[MessageDetails, OpenBody]:
        """See Source."""
        self.close()
        if message.octets > MAX_MESSAGE_OCTETS:
            # The session would end with an attempt to read it, and so would each later copy.
            raise MessageTooLarge(f"it has more than {MAX_MESSAGE_OCTETS} octets")
        try:
            file: BinaryIO = await self._run(self._retrieve, message.position)
        except CommandRefused as error:
            # The server may send the others.
            raise TryLater from error
        self._file = file

        async def open_body() -> Iterable[Chunk]:
            file.seek(0)
            return iter(lambda: file.read(_CHUNK), b"")

        return MessageDetails(time_of_delivery(file.read(_CHUNK))), open_body

    def remarks(self) -> Sequence[str]:
        """See Source."""
        return self._maildrop.remarks()

    def _retrieve(self, position: int) -> BinaryIO:
        file = spool_file()
        try:
            for text in with_bare_line_ends(self._maildrop.read(position)):
                file.write(text)
            file.seek(0)
        except BaseException:
            discard(file)
            raise
        return file

    def close(self) -> None:
        """Drop the message that was fetched last."""
        if self._file is not None:
            self._file.close()
            self._file = None


def with_bare_line_ends(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield a message in wire form with LF for CRLF, so that its wire form stays the same.

    A CRLF after a CR is kept, because the CR would otherwise belong to the line end.
    """
    held = b""
    for chunk in chunks:
        text = held + chunk
        complete = text.rstrip(b"\r")
        held = text[len(complete) :]
        yield _CRLF.sub(b"\n", complete)
    yield held


def distinct_unique_ids(unique_ids: Sequence[bytes]) -> list[bytes]:
    """Return the unique-ids of a server as those of different messages.

    One that several messages have, as Dovecot gives them to equal messages in an mbox file, gets a
    number for each but the first.  One with invalid octets is replaced by a digest.
    """
    seen: set[bytes] = set()
    distinct = []
    for given in unique_ids:
        unique_id = first = given if is_unique_id(given) or not given else valid_unique_id(given)
        number = 1
        while given and unique_id in seen:
            unique_id = b"%b-%d" % (first, number)
            number += 1
        seen.add(unique_id)
        distinct.append(unique_id)
    return distinct


def time_of_delivery(start: bytes) -> float:
    """Return when the last server received the message that starts so, or 0 if it does not say.

    A time before 1970, or after 2105, is none.
    """
    fields = header_fields(start.split(b"\n"))
    for form in (_RECEIVED, _DATE):
        found = next(filter(None, map(form.fullmatch, fields)), None)
        parsed = parsedate_tz(found[1].decode("latin-1")) if found else None
        if parsed is not None:
            with suppress(ValueError, OverflowError):
                delivered = mktime_tz(parsed)
                if delivered in _TIMES:
                    return delivered
    return 0
