"""The form in which a message is delivered to an mbox file: what :mod:`parser` makes of it again.

The unique-id becomes X-UIDL and the flags Status and X-Status, unless the message has them already.
Lines that would be taken for From_ lines are protected as the format of the file has it:

==========================  ===============================================================
Content-Length is believed  the body by Content-Length, the header by ``>`` before the line
quoted (mboxrd)             each line of any ``>`` and "From " gets one ``>`` more
neither (mboxo)             each line that begins with "From " gets a ``>``, which remains
==========================  ===============================================================

A Content-Length that the message has, and that is believed, could hide other messages: it is
replaced by the right one.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from typing import BinaryIO

from popserv.errors import DeliveryRefused
from popserv.maildrops.mbox.from_line import make_from_line
from popserv.maildrops.mbox.header import MAX_HEADER, Header
from popserv.maildrops.mbox.parser import Format
from popserv.maildrops.mbox.quoting import FromQuoter, Quoter
from popserv.maildrops.mbox.unique_ids import is_unique_id
from popserv.messages.details import Flags, MessageDetails

_CHUNK = 1 << 20

_RETURN_PATH = re.compile(
    rb"^return-path[ \t]*:[ \t]*<([^<>\s\"\x80-\xff]{1,320})>", re.IGNORECASE | re.MULTILINE
)
_NO_SENDER = b"MAILER-DAEMON@localhost"


def stored_form(
    message: BinaryIO, mbox_format: Format, unique_id: bytes, details: MessageDetails
) -> Iterator[bytes]:
    """Yield the From_ line, the message, and the blank line after it, in chunks.

    ``message`` is a file.

    :raises DeliveryRefused: a file of this format cannot keep the message.
    """
    if not is_unique_id(unique_id):
        raise DeliveryRefused(
            "its unique-id has spaces, or more than 70 octets, so that X-UIDL cannot keep it; "
            "copy to a Maildir"
        )
    header = _header(message)
    text = header.text
    if header.flags() != details.flags & ~Flags.FORWARDED:
        text = header.with_flags(details.flags)
    if header.x_uidl() != unique_id:
        text = Header(text).with_x_uidl(unique_id)
    yield from _stored(message, mbox_format, header, text, details.delivered)


def new_form(message: BinaryIO, mbox_format: Format) -> Iterator[bytes]:
    """Yield the From_ line, a new message, and the blank line after it, as :func:`stored_form`.

    Fields that mail programs add in an mbox file are dropped, since the sender has written them: a
    Status would show the message as read, and an X-UIDL would use a unique-id again.

    :raises DeliveryRefused: a file of this format cannot keep the message.
    """
    header = _header(message)
    yield from _stored(message, mbox_format, header, header.without_volatile_fields(), 0)


def _header(message: BinaryIO) -> Header:
    message.seek(0)
    return Header(message.read(MAX_HEADER))


def _stored(
    message: BinaryIO, mbox_format: Format, header: Header, text: bytes, delivered: float
) -> Iterator[bytes]:
    """Yield what is stored of a message whose header is changed to ``text``."""
    if mbox_format.believes_content_length and header.body is None:
        text = Header(text).with_content_length(None)
    size = message.seek(0, os.SEEK_END)
    last = text if size == header.length else _last_octets(message, size)
    line_end = b"" if last.endswith(b"\n") else b"\r\n" if last.endswith(b"\r") else b"\n"
    if (
        mbox_format.believes_content_length
        and header.body is not None
        and (header.has_content_length() or _has_from_line(message, header.length))
    ):
        octets = size + len(line_end) - header.body
        text = Header(text).with_content_length(octets)
    if (header.body is None and size >= MAX_HEADER) or (
        len(text) + text.count(b"From ") + 2 > MAX_HEADER
    ):
        raise DeliveryRefused(
            f"its header has {MAX_HEADER} octets or more, so that no program would find X-UIDL; "
            "use a Maildir"
        )
    yield make_from_line(_sender(text), delivered or time.time())
    quoter = Quoter() if mbox_format.is_quoted else FromQuoter()
    yield quoter.feed(text)
    if mbox_format.believes_content_length:
        yield from _chunks(message, header.length)
    else:
        yield from map(quoter.feed, _chunks(message, header.length))
    yield quoter.finish() + line_end + b"\n"


def _sender(text: bytes) -> bytes:
    """Return the sender for the From_ line of a message with this header."""
    found = _RETURN_PATH.search(text)
    sender = found[1] if found else _NO_SENDER
    # Anybody can send from that name, which is that of the message with internal data.
    return _NO_SENDER if sender.upper() == b"MAILER-DAEMON" else sender


def _last_octets(message: BinaryIO, size: int) -> bytes:
    message.seek(size - 1)
    return message.read(1)


def _has_from_line(message: BinaryIO, start: int) -> bool:
    """Return whether a line after the header begins with "From "."""
    before = b""
    for chunk in _chunks(message, start):
        if b"\nFrom " in before + chunk:
            return True
        before = chunk[-len(b"\nFrom") :]
    return False


def _chunks(message: BinaryIO, start: int) -> Iterator[bytes]:
    message.seek(start)
    while chunk := message.read(_CHUNK):
        yield chunk
