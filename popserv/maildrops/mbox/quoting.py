"""The quoting of lines that begin with "From " in an mbox file, by a ``>`` before them.

All classes process a text in chunks; the result does not depend on where they end.
"""

from __future__ import annotations

import re
from typing import ClassVar


class _LineStarts:
    """Replaces a pattern at the starts of lines; before it is nothing but octets of ``_PREFIX``.

    ``_UNDECIDED`` is what may become the end of the pattern in the next chunk.
    """

    _PATTERN: ClassVar[re.Pattern[bytes]]
    _REPLACEMENT: ClassVar[bytes]
    _UNDECIDED: ClassVar[re.Pattern[bytes]]
    _PREFIX: ClassVar[bytes] = b">"

    def __init__(self) -> None:
        self._held = b""
        # Whether the present line, without what is held, has nothing but the prefix.
        self._may_match = True

    def feed(self, chunk: bytes) -> bytes:
        """Return the text that is certain after this chunk."""
        text = self._held + chunk
        self._held = b""
        start = 0
        if not self._may_match:
            # The rest of a line that does not match stays.
            start = text.find(b"\n") + 1
            if not start:
                return text
        rest = text[start:]
        last_line = rest.rfind(b"\n") + 1
        undecided = self._UNDECIDED.search(rest, last_line)
        if undecided is not None and not rest[last_line : undecided.start()].strip(self._PREFIX):
            self._held = undecided[0]
            rest = rest[: undecided.start()]
        self._may_match = not rest[rest.rfind(b"\n") + 1 :].strip(self._PREFIX)
        return text[:start] + self._PATTERN.sub(self._REPLACEMENT, rest)

    def finish(self) -> bytes:
        """Return the text that was held back."""
        held, self._held = self._held, b""
        return held


class Unquoter(_LineStarts):
    """Undoes the quoting of mboxrd: a line of one or more ``>`` and "From " loses one ``>``.

    Of several ``>`` the last one is dropped, so that a line of them need not be kept.
    """

    _PATTERN = re.compile(rb"^(>*)>From ", re.MULTILINE)
    _REPLACEMENT = rb"\1From "
    _UNDECIDED = re.compile(rb"(?:>F?|>Fr|>Fro|>From)\Z")

    @staticmethod
    def may_change(text: bytes) -> bool:
        """Return whether a whole text may have quoted lines."""
        return b">From " in text


class Quoter(_LineStarts):
    """Quotes as mboxrd does: a line of any number of ``>`` and "From " gets one ``>`` more."""

    _PATTERN = re.compile(rb"^(>*)From ", re.MULTILINE)
    _REPLACEMENT = rb"\1>From "
    _UNDECIDED = re.compile(rb"(?:F|Fr|Fro|From)\Z")


class FromQuoter(Quoter):
    """Quotes as mboxo does: a line that begins with "From " gets a ``>``."""

    _PATTERN = re.compile(rb"^From ", re.MULTILINE)
    _REPLACEMENT = b">From "
    _PREFIX = b""
