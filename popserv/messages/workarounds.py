"""Workarounds for clients that cannot read some messages, for administrators to enable.

The names are those of Dovecot's setting ``pop3_client_workarounds``.  The octets announced are
always the octets sent.  Other client behaviour is tolerated without an option: see
docs/reference/commands.rst and tests/transcripts/client_*.txt.
"""

from __future__ import annotations

OUTLOOK_NO_NULS = "outlook-no-nuls"
"""Outlook hangs on a NUL: send 0x80 instead."""

OE_NS_EOH = "oe-ns-eoh"
"""Outlook Express and Netscape wait for the end of the header (EOH): send a blank line after
a message that has none."""

WORKAROUNDS = (OUTLOOK_NO_NULS, OE_NS_EOH)
"""The names of all workarounds."""


class NulFilter:
    """Replaces each NUL by 0x80."""

    def feed(self, chunk: bytes) -> bytes:
        """See Filter."""
        return chunk.replace(b"\0", b"\x80")

    def finish(self) -> bytes:
        """See Filter."""
        return b""


class BlankLineFilter:
    """Adds a blank line after a header-only message."""

    def __init__(self) -> None:
        self._at_line_start = True

    def feed(self, chunk: bytes) -> bytes:
        """See Filter."""
        if chunk:
            self._at_line_start = chunk.endswith(b"\n")
        return chunk

    def finish(self) -> bytes:
        """See Filter."""
        # A bare LF would form one line end with a CR at the end of the message.
        return b"\r\n" if self._at_line_start else b"\r\n\r\n"
