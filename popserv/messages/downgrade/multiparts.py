"""Finds the delimiter lines between the parts of multipart bodies (RFC 2046 section 5.1)."""

from __future__ import annotations

from typing import NamedTuple

from popserv.messages.downgrade.content import Content

PROTECTED_TYPES = ("multipart/signed", "multipart/encrypted")
"""The types whose parts no program may change (RFC 1847).

Types that begin so count, too: what follows is another parameter without the semicolon before it.
"""

MAX_WORK = 100_000
"""The maximum units of work for one message: one unit for each line that starts like a delimiter
line, and ten for each header of a part."""

MAX_DELIMITER = 1000
"""The maximum octets of a delimiter line, with its padding but without its LF."""


class Delimiter(NamedTuple):
    """A delimiter line.

    ``start`` and ``end`` are its offsets, ``level`` is the index of its multipart, and
    ``is_close`` tells whether it is the close delimiter, which ends the multipart.
    """

    start: int
    end: int
    level: int
    is_close: bool


class _Multipart(NamedTuple):
    """An open multipart.

    ``default_type`` is the type of a part without a Content-Type.  ``delimiters`` maps the
    delimiter lines of this multipart and of those around it to level and ``is_close``;
    ``prefix`` is the longest common prefix of these lines, each with the line end before it.
    ``is_protected`` tells whether this multipart or one around it is of ``PROTECTED_TYPES``.
    """

    default_type: str
    delimiters: dict[bytes, tuple[int, bool]]
    prefix: bytes
    is_protected: bool


class Multiparts:
    """The open multiparts of a message, from the outermost to the innermost.

    ``is_exhausted`` turns true when the work for the message is used up; if ``find_delimiter`` has
    used it up, ``exhausted_at`` is the offset of the line end at which it has stopped.
    """

    is_exhausted = False
    exhausted_at: int

    def __init__(self) -> None:
        self._open: list[_Multipart] = []
        self._work_left = MAX_WORK

    def __len__(self) -> int:
        return len(self._open)

    def spend(self, work: int) -> None:
        """Use up units of work."""
        self._work_left -= work
        if self._work_left < 0:
            self.is_exhausted = True

    def enter(self, content: Content) -> None:
        """Open a multipart within those that are open."""
        level = len(self._open)
        delimiter = b"--" + content.boundary
        # The delimiters of an inner multipart take precedence.
        delimiters = {delimiter: (level, False), delimiter + b"--": (level, True)}
        prefix = b"\n" + delimiter
        if level:
            outer = self._open[-1]
            delimiters = {**outer.delimiters, **delimiters}
            prefix = _common_prefix(outer.prefix, prefix)
        # RFC 2046 section 5.1.5.
        default_type = "message/rfc822" if content.type == "multipart/digest" else ""
        is_protected = self.is_protected or content.type.startswith(PROTECTED_TYPES)
        self._open.append(_Multipart(default_type, delimiters, prefix, is_protected))

    def pass_delimiter(self, delimiter: Delimiter) -> None:
        """Close the multiparts that a delimiter line ends."""
        del self._open[delimiter.level + (not delimiter.is_close) :]

    @property
    def is_protected(self) -> bool:
        """Whether a part at this place must not change."""
        return bool(self._open) and self._open[-1].is_protected

    @property
    def default_type(self) -> str:
        """The type of a part of the innermost multipart that has no Content-Type."""
        return self._open[-1].default_type

    def find_delimiter(
        self, data: bytes, at: int, at_line_start: bool, stop: int
    ) -> Delimiter | None:
        """Return the first delimiter line within ``data[at:stop]``."""
        _, delimiters, prefix, _ = self._open[-1]
        if at_line_start and data.startswith(prefix[1:], at, stop):
            line = at
        else:
            line = data.find(prefix, at, stop) + 1
            if not line:
                return None
        while (end := data.find(b"\n", line, stop)) >= 0:
            if end - line <= MAX_DELIMITER:
                text = data[line:end].removesuffix(b"\r").rstrip(b" \t")
                if text in delimiters:
                    return Delimiter(line, end + 1, *delimiters[text])
            self.spend(1)
            if self.is_exhausted:
                self.exhausted_at = end
                break
            line = data.find(prefix, end, stop) + 1
            if not line:
                break
        return None

    def may_be_delimiter(self, data: bytes, line: int) -> bool:
        """Return whether the unfinished line at an offset may become a delimiter line."""
        if len(data) - line > MAX_DELIMITER:
            return False
        text, prefix = data[line:], self._open[-1].prefix[1:]
        return text.startswith(prefix) or prefix.startswith(text)


def _common_prefix(first: bytes, second: bytes) -> bytes:
    for at, (octet, other_octet) in enumerate(zip(first, second, strict=False)):
        if octet != other_octet:
            return first[:at]
    return min(first, second, key=len)
