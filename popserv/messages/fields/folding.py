"""Writes the lines of a header field, folded before white space (RFC 5322 section 2.2.3)."""

from __future__ import annotations

import re

from popserv.messages.fields.encoded_words import MIN_ENCODED_TEXT, OVERHEAD, EncodedText

LINE_WIDTH = 74
"""Columns to fold at.

Two more characters may follow, as in ``),``: lines with encoded-words have at most 76
(RFC 2047 section 2).
"""

_MAX_LINE = 998
"""The maximum octets of a message's line, without its line end (RFC 5322 section 2.1.1)."""

_VALID_LINES = re.compile(r"(?:[ \t]*[!-~][\t -~]*(?:\n(?=[ \t])|\Z))+")
_SPACE_AND_WORD = re.compile(r"([ \t]*)((?:\\[ \t]|[^ \t])+)")


class FoldedField:
    """A header field that is written word by word, and folded as it grows."""

    def __init__(self, name: str) -> None:
        self._text = [name, ":"]
        self._column = len(name) + 1

    def write(self, word: str, space: str = " ", reserve: int = 0) -> None:
        """Write a word that cannot be folded, preceded by white space.

        The field is folded before the white space if the line would become too long.  It is
        not folded if ``space`` is empty.  ``reserve`` is the number of characters after the
        word that should fit on the same line.
        """
        width = len(space) + len(word)
        if space and self._column + width + reserve > LINE_WIDTH:
            self._break_line()
        self._text += (space, word)
        self._column += width

    def copy(self, text: str, space: str = " ") -> None:
        """Write ASCII text unchanged, preceded by white space, folded between its words."""
        for match in _SPACE_AND_WORD.finditer(text):
            self.write(match[2], space or match[1])
            space = ""

    def encode(self, text: str, space: str = " ") -> None:
        """Write text as encoded-words, preceded by white space."""
        encoded = EncodedText(text)
        while encoded:
            width = LINE_WIDTH - self._column - len(space) - OVERHEAD
            if width < MIN_ENCODED_TEXT:
                self._break_line()
                space = space or " "
                width = max(MIN_ENCODED_TEXT, LINE_WIDTH - len(space) - OVERHEAD)
            word = encoded.next_word(width)
            self._text += (space, word)
            self._column += len(space) + len(word)
            space = " "

    def _break_line(self) -> None:
        self._text.append("\n")
        self._column = 0

    def is_valid(self) -> bool:
        """Return whether the lines are valid: printable ASCII, of at most 998 octets."""
        text = "".join(self._text)
        return bool(_VALID_LINES.fullmatch(text)) and max(map(len, text.split("\n"))) <= _MAX_LINE

    def lines(self, line_end: str) -> str:
        """Return the field's lines, each with this line end."""
        return "".join(self._text).replace("\n", line_end) + line_end
