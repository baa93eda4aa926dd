"""Undoes the quoting of mboxrd: a line of one or more ``>`` and "From " loses one ``>``."""

from __future__ import annotations

import re

_QUOTED = re.compile(rb"^(>*)>From ", re.MULTILINE)
_UNQUOTED = rb"\1From "
# A line that may go on as a quoted one.
_UNDECIDED = re.compile(rb"(?:>F?|>Fr|>Fro|>From)\Z")


class Unquoter:
    """Undoes the quoting of a text in chunks; the result does not depend on where they end.

    Of several ``>`` the last one is dropped, so that a line of them need not be kept.
    """

    def __init__(self) -> None:
        self._held = b""
        # Whether the present line, without what is held, has nothing but ">".
        self._may_be_quoted = True

    @staticmethod
    def may_change(text: bytes) -> bool:
        """Return whether a whole text may have quoted lines."""
        return b">From " in text

    def feed(self, chunk: bytes) -> bytes:
        """Return the text that is certain after this chunk."""
        text = self._held + chunk
        self._held = b""
        start = 0
        if not self._may_be_quoted:
            # The rest of a line that is not quoted stays.
            start = text.find(b"\n") + 1
            if not start:
                return text
        rest = text[start:]
        undecided = _UNDECIDED.search(rest, rest.rfind(b"\n") + 1)
        if undecided is not None and not rest[rest.rfind(b"\n") + 1 : undecided.start()].strip(
            b">"
        ):
            self._held = undecided[0]
            rest = rest[: undecided.start()]
        last_line = rest[rest.rfind(b"\n") + 1 :]
        self._may_be_quoted = not last_line.strip(b">")
        return text[:start] + _QUOTED.sub(_UNQUOTED, rest)

    def finish(self) -> bytes:
        """Return the text that was held back."""
        held, self._held = self._held, b""
        return held
