"""The table of header fields and how each is downgraded (RFC 6857 sections 3.2 and 4.2).

The rules:

1. No text is lost, except the clauses of Received that RFC 6857 removes: text that has no
   ASCII form becomes encoded-words.
2. Any text is accepted.  A field that cannot be parsed is treated as unstructured.
3. The result is the lines of one field: ASCII, at most 998 octets each, and at most 76 except
   where a word cannot be folded.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from popserv.messages.fields.addresses import downgrade_addresses
from popserv.messages.fields.folding import FoldedField
from popserv.messages.fields.lexer import unfold
from popserv.messages.fields.parameters import downgrade_mime_value
from popserv.messages.fields.received import downgrade_received
from popserv.messages.fields.text import (
    downgrade_comments,
    downgrade_keywords,
    downgrade_unstructured,
)
from popserv.messages.fields.typed_addresses import downgrade_typed_address

_NAME = re.compile(rb"([!-9;-~]{1,200})[ \t]*:")


def downgrade_field(field: bytes) -> bytes:
    """Return a header field downgraded to ASCII.

    ``field`` is all lines of the field; the result has the same line ends.  The same object is
    returned if the field is ASCII, has no name, or is not UTF-8.
    """
    decoded = decode_field(field)
    if decoded is None:
        return field
    name, text = decoded
    method = METHODS.get(name.lower(), downgrade_unstructured)
    folded = FoldedField(name)
    if not method(folded, text) or not folded.is_valid():
        if name.lower() in _ENCAPSULATED:
            name = "Downgraded-" + name
        folded = FoldedField(name)
        downgrade_unstructured(folded, text)
    line_end = "\r\n" if field.endswith(b"\r\n") else "\n"
    return folded.lines(line_end).encode("ascii")


def decode_field(field: bytes) -> tuple[str, str] | None:
    """Return the name and the text of a field that has to be downgraded, or None.

    Fields in ASCII, without a name, or not in UTF-8 are not downgraded.
    """
    match = _NAME.match(field)
    if not match or field.isascii():
        return None
    try:
        text = field[match.end() :].decode("utf-8")
    except UnicodeDecodeError:
        return None
    return match[1].decode("ascii"), unfold(text).strip(" \t")


METHODS: dict[str, Callable[[FoldedField, str], bool]] = {
    **dict.fromkeys(
        (
            *("from", "sender", "to", "cc", "bcc", "reply-to", "return-path"),
            *("resent-from", "resent-sender", "resent-to", "resent-cc", "resent-bcc"),
            *("resent-reply-to", "disposition-notification-to"),
        ),
        downgrade_addresses,
    ),
    **dict.fromkeys(
        (
            *("date", "resent-date", "mime-version", "content-id", "auto-submitted"),
            *("content-transfer-encoding", "content-language", "accept-language"),
            *("message-id", "resent-message-id", "in-reply-to", "references"),
        ),
        downgrade_comments,
    ),
    "received": downgrade_received,
    **dict.fromkeys(("content-type", "content-disposition"), downgrade_mime_value),
    "keywords": downgrade_keywords,
    **dict.fromkeys(("original-recipient", "final-recipient"), downgrade_typed_address),
}
"""The downgrading method of each field, by its name in lower case.

A method writes the downgraded text to a field, and returns whether it could.  A field that is
not in the table is unstructured (RFC 6857 sections 3.2.6 and 3.2.8).
"""

_ENCAPSULATED = {
    *("message-id", "resent-message-id", "in-reply-to", "references"),
    *("original-recipient", "final-recipient"),
}
"""Fields that are encapsulated if their method fails (RFC 6857 section 3.1.10).

All others are downgraded as unstructured fields then.
"""
