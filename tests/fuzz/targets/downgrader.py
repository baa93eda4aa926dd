"""The downgraded form of messages, against a naive walk over the whole of them."""

import re

from popserv.messages.downgrade import Downgrader
from popserv.messages.octets import count_octets
from popserv.messages.sizes import measure
from tests.fuzz.target import Target, pieces, selected
from tests.messages.downgrade.harness import (
    BOUNCE,
    CONTENT_TYPES,
    DELIMITERS,
    SIGNED,
    SIGNED_PARTS,
    SUBJECT,
)
from tests.messages.downgrade.test_downgrader import NaiveWalk

_MALFORMED = re.compile(rb"multipart/(?:signed|encrypted)(?![ \t]*(?:;|\r?\n))", re.IGNORECASE)
"""A type that only starts like one of a signed or encrypted part."""


def downgraded(chunks):
    """Return the downgraded form of a message in chunks, and what the downgrader says of it."""
    downgrader = Downgrader()
    text = b"".join([*map(downgrader.feed, chunks), downgrader.finish()])
    return text, downgrader.changed, downgrader.octets_gained, downgrader.needs_utf8


def check(data):
    """The form is the same for any chunks, has the octets that were measured, and is final."""
    size, message = selected(data, 1)
    whole = downgraded([message])
    assert downgraded(pieces(message, size)) == whole
    text, changed, gained, needs_utf8 = whole
    assert changed or text == message
    assert count_octets([text]) == count_octets([message]) + gained
    sizes = measure([message], Downgrader)
    expected = 0 if needs_utf8 else count_octets([text]) if changed else None
    assert sizes[:2] == (count_octets([message]), expected), sizes
    if not needs_utf8:
        assert downgraded([text])[0] == text
    if _MALFORMED.search(message):
        # Such a part is protected as well, which the naive walk does not know.
        return
    walk = NaiveWalk(message)
    assert walk.run() == text
    assert walk.is_refused == needs_utf8


_BOUNDARY = b"Content-Type: multipart/mixed; boundary=a\n\n--a\n"

TARGET = Target(
    "downgrader",
    check,
    (
        *(b"\7" + each for each in (BOUNCE, SIGNED, *SIGNED_PARTS.values(), SUBJECT + b"\nx\n")),
        b"\1" + _BOUNDARY + SUBJECT + b"\nx\n--a--\n",
        b"\2From: J\xc3\xb6rg <j@example>, \xc3\xa4: a@b, c@d;\nTo: <\xc3\xbc@b\xc3\xbc.de>\n\n",
        b"\3Received: from \xc3\xbc by y for <\xc3\xbc@a> ; z\nMessage-ID: <\xc3\xbc@x>\n\n",
        b"\5Content-Disposition: attachment; filename=\xc3\xbc; a*0=\xc3\xbc\n\n",
    ),
    (
        *CONTENT_TYPES,
        *(each + b"\n" for each in DELIMITERS),
        *(b"\xc3\xbc", b"\n\n", b"\r\n", b"=?UTF-8?B?w7w=?=", b"From: ", b"To: ", b"Subject: "),
        *(
            b"Message-ID: ",
            b"Received: ",
            b"Content-Disposition: ",
            b"filename*=",
            b'"',
            b"<",
            b"@",
        ),
        *(
            b"Content-Transfer-Encoding: base64\n",
            b"Date: ",
            b"Reply-To: ",
            b"Sender: ",
            b"(",
            b";",
        ),
    ),
    max_octets=600,
    calls_per_octet=400,
    seconds_per_octet=4e-4,
    memory_per_octet=2000,
)
