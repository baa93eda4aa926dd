"""Text from the network, as it is written to the log and to terminals."""

from __future__ import annotations

import re
from collections.abc import Iterable

MAX_CHARACTERS = 200
"""The maximum characters of a name."""

_SHORT_ESCAPES = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}

_IS_PLAIN = re.compile(rb"[ !#-\[\]-~]*")
"""Printable ASCII without the quotation mark and the backslash."""


def printable(octets: bytes, maximum: int = MAX_CHARACTERS) -> str:
    """Return octets, such as a user's name, as UTF-8 text of one line and ``maximum`` characters.

    Every character that is not printable, such as a line separator or a bidirectional control,
    every quotation mark, every backslash, and every octet that is not UTF-8 is escaped.  So a name
    in quotation marks ends at the second of them, and different octets have different texts.
    """
    if len(octets) <= maximum and _IS_PLAIN.fullmatch(octets):
        return octets.decode("ascii")
    # A character has at most four octets; surrogates stand for octets that are not UTF-8.
    text = octets[: 4 * maximum].decode("utf-8", "surrogateescape")
    return _joined(map(_escaped, text), maximum)


def one_line(text: str) -> str:
    """Return a text, such as that of an exception, with all but printable characters escaped."""
    return text if text.isprintable() else "".join(map(_escaped_unless_printable, text))


def _joined(pieces: Iterable[str], maximum: int) -> str:
    """Join pieces up to ``maximum`` characters; the last escape is whole."""
    taken, length = [], 0
    for piece in pieces:
        length += len(piece)
        if length > maximum:
            break
        taken.append(piece)
    return "".join(taken)


def _escaped(character: str) -> str:
    return f"\\{character}" if character in '"\\' else _escaped_unless_printable(character)


def _escaped_unless_printable(character: str) -> str:
    if character.isprintable():
        return character
    if character in _SHORT_ESCAPES:
        return _SHORT_ESCAPES[character]
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    # From 80 on, an escape of two digits is an octet.
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
