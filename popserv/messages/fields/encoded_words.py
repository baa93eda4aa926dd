"""Writes text as encoded-words in UTF-8 (RFC 2047 section 2)."""

from __future__ import annotations

from binascii import b2a_base64

OVERHEAD = len("=?UTF-8?Q??=")
"""Characters of an encoded-word around its encoded text."""

MIN_ENCODED_TEXT = 18
"""Characters of encoded text that must fit on a line for an encoded-word to start there."""

_Q_ENCODED = [f"={octet:02X}" for octet in range(256)]
for _character in "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!*+-/":
    # RFC 2047 section 5 (3): characters that are allowed in a phrase are allowed everywhere.
    _Q_ENCODED[ord(_character)] = _character
_Q_ENCODED[ord(" ")] = "_"


class EncodedText:
    """Text to write as a sequence of encoded-words, none of which splits a character.

    It uses the Q encoding if more than half of the characters are ASCII, else the B encoding
    (RFC 2047 section 4).  The object is true until the whole text is written.
    """

    def __init__(self, text: str) -> None:
        self._data = text.encode("utf-8")
        self._quoted = "".join(map(_Q_ENCODED.__getitem__, self._data))
        self._uses_q = len(text.encode("ascii", "ignore")) * 2 > len(text)
        self._end = len(self._quoted) if self._uses_q else len(self._data)
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < self._end

    def next_word(self, width: int) -> str:
        """Return the next encoded-word, with at most ``width`` characters of encoded text."""
        start = self._at
        if self._uses_q:
            self._at = end_of_characters(self._quoted, start, width, "=")
            return f"=?UTF-8?Q?{self._quoted[start : self._at]}?="
        end = start + width // 4 * 3
        while end < self._end and self._data[end] & 0xC0 == 0x80:
            end -= 1
        self._at = end
        return f"=?UTF-8?B?{b2a_base64(self._data[start:end], newline=False).decode('ascii')}?="


def end_of_characters(encoded: str, start: int, width: int, escape: str) -> int:
    """Return where to split encoded UTF-8, at most ``width`` after ``start``.

    Each octet outside ASCII is ``escape`` and two hexadecimal digits, as in the Q encoding and
    in percent-encoding.  The split is between two characters of the text.
    """
    end = start + width
    if end >= len(encoded):
        return len(encoded)
    if encoded[end - 1] == escape:
        end -= 1
    elif encoded[end - 2] == escape:
        end -= 2
    while encoded[end] == escape and encoded[end + 1] in "89AB":
        end -= 3
    return end
