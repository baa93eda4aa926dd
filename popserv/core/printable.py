"""Text from the network as it is written to the log."""

from __future__ import annotations

_MAX_CHARACTERS = 200


def printable(octets: bytes, maximum: int = _MAX_CHARACTERS) -> str:
    """Return octets as text of one line, for the log: UTF-8, at most ``maximum`` characters.

    Every character that is not printable, every backslash, and every octet that is not UTF-8 is
    escaped as in a Python literal.  So no name can look like another line of the log, or like
    another name.
    """
    # A character has at most four octets; surrogates stand for octets that are not UTF-8.
    text = octets[: 4 * maximum].decode("utf-8", "surrogateescape")
    escaped = "".join(map(_escaped, text[:maximum]))
    return escaped[:maximum]


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    if character == "\\" or not character.isprintable():
        return character.encode("unicode_escape").decode("ascii")
    return character
