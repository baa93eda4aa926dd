"""The messages of an mbox file, against a naive reader."""

import atexit
import os
from tempfile import TemporaryFile
from unittest.mock import patch

from popserv.maildrops.mbox import parser, window
from popserv.maildrops.mbox.from_line import MAX_LENGTH, from_line_length
from popserv.maildrops.mbox.parser import Format, NotAnMbox, parse
from popserv.maildrops.mbox.window import Window
from popserv.messages.downgrade import Downgrader
from popserv.messages.sizes import measure
from tests.fuzz.target import Target, selected
from tests.maildrops.mbox.harness import INTERNAL_DATA, mbox_of, stored
from tests.maildrops.mbox.test_parser import naive_texts

FILE = TemporaryFile()  # noqa: SIM115
atexit.register(FILE.close)
FORMATS = (
    Format(),
    Format(believes_content_length=False),
    Format(believes_content_length=False, is_quoted=True),
)


def check(data):
    """Messages follow each other without gaps, and a parser may start at any of them."""
    selector, octets = selected(data, 1)
    mbox_format = FORMATS[selector % 3]
    downgrader = Downgrader if selector & 8 else None
    os.ftruncate(FILE.fileno(), 0)
    os.pwrite(FILE.fileno(), octets, 0)
    block = 1100 + selector if selector & 16 else window.BLOCK
    with patch.object(window, "BLOCK", block), patch.object(parser, "BLOCK", block):
        check_file(octets, mbox_format, downgrader)


def check_file(octets, mbox_format, downgrader):
    """Check the messages of the file."""

    def entries(offset):
        opened = Window(FILE.fileno(), len(octets))
        return list(parse(opened, offset, mbox_format, downgrader))

    blank = len(octets) - len(octets.lstrip(b"\r\n"))
    try:
        found = entries(0)
    except NotAnMbox:
        assert blank >= MAX_LENGTH or not from_line_length(octets[blank:]), "it is an mbox file"
        return
    at = found[0].offset if found else len(octets)
    has_internal = octets[blank:].startswith(b"From MAILER-DAEMON ")
    assert at == blank or has_internal, (at, blank)
    for number, entry in enumerate(found):
        assert entry.offset == at < entry.start <= entry.end <= entry.next, entry
        assert entry.start - entry.offset == from_line_length(octets[at : at + MAX_LENGTH])
        assert octets[entry.end : entry.next] in (b"", b"\n", b"\r\n"), entry
        if number in (1, len(found) - 1) and entry.offset:
            assert entries(entry.offset) == found[number:]
        if not mbox_format.is_quoted:
            text = octets[entry.start : entry.end]
            assert entry.sizes == measure([text], downgrader), entry
        at = entry.next
    assert at == len(octets), (at, len(octets))
    if found and not has_internal and not mbox_format.believes_content_length:
        texts = [octets[each.start : each.end] for each in found]
        assert texts == naive_texts(octets), texts


_DATE = b"Mon Jan  5 10:00:00 2026"

TARGET = Target(
    "mbox",
    check,
    (
        *(bytes([number]) + mbox_of([b"a: b\n\nb\n", b"c\n"]) for number in (0, 1, 2, 8, 17)),
        b"\0" + INTERNAL_DATA + stored(b"Subject: x\n\n>From y\n"),
        b"\0\n\r\nFrom a %b\nContent-Length: 5\nStatus: RO\nX-UIDL: abc\n\nFrom \n\n" % _DATE,
        b"\x0bFrom a %b\r\nSubject: \xc3\xbc\r\n\r\n>>From x\r\n\r\nFrom b %b" % (_DATE, _DATE),
    ),
    (
        *(b"From ", b"\nFrom a %b\n" % _DATE, b"\n\n", b"\r\n", b"Content-Length: 10\n", b">From "),
        *(b"Status: O\n", b"X-UIDL: ", b"From MAILER-DAEMON ", b'"', b" +0100", b"\xc3\xa9"),
    ),
    max_octets=2048,
    calls_per_octet=80,
    memory_per_octet=2000,
)
