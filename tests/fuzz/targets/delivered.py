"""New mail in an mbox file: each message is there, once, whatever its sender has written."""

import os
import re
from io import BytesIO

from popserv.errors import DeliveryRefused
from popserv.maildrops.mbox.parser import parse
from popserv.maildrops.mbox.quoting import Unquoter
from popserv.maildrops.mbox.stored_form import new_form
from popserv.maildrops.mbox.window import Window
from tests.fuzz.target import Target, selected
from tests.fuzz.targets.mbox import FILE, FORMATS

_STATE = {
    *(b"status", b"x-status", b"x-keywords", b"x-uid", b"x-uidl", b"x-imap", b"x-imapbase"),
    *(b"content-length", b"lines"),
}
_HEADER_END = re.compile(rb"^\r?\n", re.M)
_FROM = re.compile(rb"^From ", re.M)


def check(data):
    """Messages that are separated by NULs are read again as they were delivered."""
    selector, text = selected(data, 1)
    mbox_format = FORMATS[selector % 3]
    delivered, parts = [], []
    for message in text.split(b"\0", 4):
        try:
            parts.append(b"".join(new_form(BytesIO(message), mbox_format)))
        except DeliveryRefused:
            continue
        delivered.append(message)
    file = b"".join(parts)
    os.ftruncate(FILE.fileno(), 0)
    os.pwrite(FILE.fileno(), file, 0)
    entries = list(parse(Window(FILE.fileno(), len(file)), 0, mbox_format))
    read = [file[entry.start : entry.end] for entry in entries]
    expected = [ended(without_state(message)) for message in delivered]
    if mbox_format.believes_content_length:
        read, expected = [*map(without_state, read)], [*map(quoted_header, expected)]
    if mbox_format.is_quoted:
        read = [unquoted(message) for message in read]
    elif not mbox_format.believes_content_length:
        expected = [_FROM.sub(b">From ", message) for message in expected]
    assert read == expected, (read, expected)


def ended(message):
    """Return a message whose last line has an end; a CR before that is the text's."""
    if message.endswith(b"\n"):
        return message
    return message + (b"\r\n" if message.endswith(b"\r") else b"\n")


def unquoted(message):
    """Return a message without the quoting of mboxrd."""
    unquoter = Unquoter()
    return unquoter.feed(message) + unquoter.finish()


def without_state(message):
    """Return a message without the fields of mail programs."""
    lines = re.findall(rb"[^\n]*\n|[^\n]+", message)
    kept, is_dropped = [], False
    for at, line in enumerate(lines):
        if line in (b"\n", b"\r\n"):
            return b"".join(kept + lines[at:])
        if line[:1] not in (b" ", b"\t"):
            name, colon, _ = line.partition(b":")
            is_dropped = colon and name.rstrip(b" \t").lower() in _STATE
        if not is_dropped:
            kept.append(line)
    return b"".join(kept)


def quoted_header(message):
    """Return a message with a > before the From lines of its header, but not of its body."""
    end = _HEADER_END.search(message)
    at = len(message) if end is None else end.start()
    return _FROM.sub(b">From ", message[:at]) + message[at:]


_DATE = b"Mon Jan  5 10:00:00 2026"

TARGET = Target(
    "delivered",
    check,
    (
        *(bytes([n]) + b"Return-Path: <a@b>\nSubject: x\n\nFrom b\n\0From c" for n in range(3)),
        *(bytes([n]) + b"a: b\nContent-Length: 1\n\nx\n\nFrom a %b\n\ny" % _DATE for n in range(3)),
        b"\0Return-Path: <MAILER-DAEMON>\nSubject: DON'T DELETE THIS MESSAGE -- FOLDER INTERNAL "
        b"DATA\nX-IMAP: 1 2\n\nx\n",
        b"\0a: b\n\nx\n\nFrom a %b\n\ny" % _DATE,
        *(b"\1>From x\r\n\r\n>>From y\r", b"\2\0\n\0\r\n\0x\0From \n\n"),
    ),
    (
        *(b"\nFrom a %b\n" % _DATE, b"From ", b">From ", b"\n\n", b"\r\n", b"Content-Length: 9\n"),
        *(b"Return-Path: <", b"MAILER-DAEMON>", b"\0", b"Content-Length:\n 1\n", b"X-IMAP: 1\n"),
        *(b"Status: RO\n", b"X-UIDL: x\n", b" ", b"Lines:"),
    ),
    calls_per_octet=80,
    memory_per_octet=2000,
)
