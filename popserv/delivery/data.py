"""The message after DATA (RFC 5321 section 4.5.2): its end, dot-stuffing, and line ends.

Only CRLF ends a line, and only CRLF, a dot and CRLF end a message: whoever takes another sequence
for the end lets one message smuggle another one.
"""

from __future__ import annotations

import re

_END = b"\r\n.\r\n"
_LINE_END = re.compile(rb"(?<!\r)\r\n")


class DataReader:
    """Converts the octets after DATA to the message as it is stored.

    Lines of the stored message end with LF, except for those that end with a CR of their own: they
    end with CRLF, so that the wire form of what is stored is what was received.

    :ivar octets: the octets of the wire form of what was read.
    :ivar has_bare_lf: whether an LF without a CR was in the input, which is an invalid message.
    """

    def __init__(self) -> None:
        self.octets = 0
        self.has_bare_lf = False
        # The end of the input that may be the start of _END.  A message can end in its first line.
        self._held = b"\r\n"
        self._is_start = True
        self._after_cr = False

    def feed(self, octets: bytes) -> tuple[bytes, bytes | None]:
        """Return the part of the stored message that is certain, and the input after its end.

        The latter is None if the message has not ended.  Call it no more after that.
        """
        text = self._held + octets
        end = text.find(_END)
        if end >= 0:
            rest: bytes | None = text[end + len(_END) :]
            text = text[: end + 2]
        else:
            rest = None
            held = next((n for n in (4, 3, 2, 1) if text.endswith(_END[:n])), 0)
            self._held = text[len(text) - held :]
            text = text[: len(text) - held]
        return self._stored(text), rest

    def _stored(self, text: bytes) -> bytes:
        if not text:
            return b""
        text = text.replace(b"\r\n.", b"\r\n")
        if self._is_start:
            # The line end that the message does not have.
            text, self._is_start = text[2:], False
        if text.count(b"\n") != text.count(b"\r\n"):
            self.has_bare_lf = True
        self.octets += len(text)
        context = b"\r" if self._after_cr else b""
        self._after_cr = text.endswith(b"\r")
        text = context + text
        if b"\r\r\n" in text:
            return _LINE_END.sub(b"\n", text)[len(context) :]
        return text.replace(b"\r\n", b"\n")[len(context) :]
