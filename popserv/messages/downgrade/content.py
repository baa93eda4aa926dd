"""Reads the description of a body from its header (RFC 2045, RFC 2046).

The description is the media type, the boundary of a multipart, and whether the body is encoded.
"""

from __future__ import annotations

import re
from itertools import takewhile
from typing import NamedTuple
from urllib.parse import unquote

from popserv.messages.fields.lexer import is_comment, lex
from popserv.messages.fields.parameters import parse_mime_value

MAX_FIELD = 1 << 15
"""The maximum octets of a header field that is parsed or downgraded."""


class Content(NamedTuple):
    """The body that a header describes.

    ``type`` is the media type in lower case; it may be empty if it is neither a multipart nor
    a message.  ``boundary`` is that of a multipart.  ``is_identity`` tells whether the body is
    not encoded (RFC 2045 section 6.2).
    """

    type: str
    boundary: bytes = b""
    is_identity: bool = True


class MessageType(NamedTuple):
    """A media type whose body starts with header fields.

    ``has_field_groups`` tells whether the whole body is groups of fields separated by blank
    lines, as in delivery reports (RFC 3464 section 2.1).  ``downgraded`` is the type of a
    downgraded body, empty if the type stays.
    """

    has_field_groups: bool
    downgraded: bytes = b""


MESSAGE_TYPES = {
    "message/rfc822": MessageType(False),
    "message/global": MessageType(False, b"message/rfc822"),
    "message/global-headers": MessageType(False, b"text/rfc822-headers"),
    "message/delivery-status": MessageType(True),
    "message/global-delivery-status": MessageType(True, b"message/delivery-status"),
    "message/disposition-notification": MessageType(True),
    "message/global-disposition-notification": MessageType(
        True, b"message/disposition-notification"
    ),
}
"""The types that are downgraded inside (RFC 6532 section 3.7, RFC 6533 section 4.4)."""

_TYPE = b"\ncontent-type"
_ENCODING = b"\ncontent-transfer-encoding"
_VALUE = re.compile(rb"[ \t]*:([^\n]*(?:\n[ \t][^\n]*)*)")


def read_content(header: bytes, default: str) -> Content:
    """Read Content-Type and Content-Transfer-Encoding.

    ``default`` is the type if there is no Content-Type.
    """
    lowered = b"\n" + header.lower()
    if not default and b"multipart/" not in lowered and b"message/" not in lowered:
        return Content(default)
    start, end = _find_value(lowered, _TYPE)
    if not end:
        return Content(default)
    media_type, parameters = parse_mime_value(header[start:end])
    if media_type.startswith("multipart/"):
        return Content(media_type, _boundary(parameters))
    start, end = _find_value(lowered, _ENCODING)
    encoding, _ = parse_mime_value(header[start:end])
    return Content(media_type, is_identity=encoding in ("", "7bit", "8bit", "binary"))


def _find_value(lowered: bytes, name: bytes) -> tuple[int, int]:
    """Return the offsets in the header of the first such field's value, (0, 0) if there is none.

    ``lowered`` is a line end and the header in lower case; ``name`` starts with a line end.
    """
    at = lowered.find(name)
    while at >= 0:
        match = _VALUE.match(lowered, at + len(name))
        if match and len(match[1]) <= MAX_FIELD:
            return match.start(1) - 1, match.end(1) - 1 - match[1].endswith(b"\r")
        at = lowered.find(name, at + 1)
    return 0, 0


def replace_type(header: bytes, old: str, new: bytes) -> bytes:
    """Return a header with another type in its Content-Type.

    It stays as it is if there are comments within the type.
    """
    at, end = _find_value(b"\n" + header.lower(), _TYPE)
    lexemes = lex(header[at:end].decode("latin-1"))
    at += sum(map(len, takewhile(lambda each: is_comment(each) or each.isspace(), lexemes)))
    stop = at + len(old)
    if header[at:stop].lower() != old.encode("ascii"):
        return header
    return header[:at] + new + header[stop:]


def _boundary(parameters: dict[str, str]) -> bytes:
    """Return the parameter ``boundary``, which may be extended, or split into sections (RFC 2231).

    If there are several, the first one counts, whatever its form: the downgraded header has them in
    the same order, and must have the same boundary, but other forms.
    """
    boundary = ""
    for name, value in parameters.items():
        if name == "boundary":
            boundary = value
        elif name == "boundary*":
            boundary = _decode_extended(value)
        elif name in ("boundary*0", "boundary*0*"):
            boundary = _join_sections(parameters)
        else:
            continue
        break
    return boundary.rstrip(" \t").encode("latin-1")


def _join_sections(parameters: dict[str, str]) -> str:
    boundary = ""
    order = {name: at for at, name in enumerate(parameters)}
    for section in range(len(parameters)):
        name = f"boundary*{section}"
        forms = [each for each in (name, name + "*") if each in order]
        if not forms:
            break
        # Here, too, the first one counts.
        form = min(forms, key=order.__getitem__)
        value = parameters[form]
        if form == name:
            boundary += value
        else:
            boundary += unquote(value, "latin-1") if section else _decode_extended(value)
    return boundary


def _decode_extended(value: str) -> str:
    """Return an extended value without its charset and language: a boundary is octets."""
    return unquote(value.split("'", 2)[-1], "latin-1")
