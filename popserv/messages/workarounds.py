"""Clients that choke on messages as they are: what is done for them, where an operator asks.

The names are those that Dovecot has in ``pop3_client_workarounds``.  Octets are always
those of what is sent.  What clients do otherwise that is odd needs no option: see
the leniencies in docs/reference/commands.rst, and tests/transcripts/client_*.txt.
"""

from __future__ import annotations

OUTLOOK_NO_NULS = "outlook-no-nuls"
"""Outlook hangs on a NUL: send 0x80 in its place."""

OE_NS_EOH = "oe-ns-eoh"
"""Outlook Express and Netscape wait for the header's end: send one where there is none."""

WORKAROUNDS = (OUTLOOK_NO_NULS, OE_NS_EOH)


class NulFilter:
    """Put 0x80 in the place of each NUL."""

    def feed(self, chunk: bytes) -> bytes:
        """See Filter."""
        return chunk.replace(b"\0", b"\x80")

    def finish(self) -> bytes:
        """See Filter."""
        return b""


class BlankLineFilter:
    """Put an empty line behind a message that has none."""

    def __init__(self) -> None:
        self._ended = True

    def feed(self, chunk: bytes) -> bytes:
        """See Filter."""
        if chunk:
            self._ended = chunk.endswith(b"\n")
        return chunk

    def finish(self) -> bytes:
        """See Filter."""
        # Not a bare LF, with which a CR at the message's end would become one line end.
        return b"\r\n" if self._ended else b"\r\n\r\n"
