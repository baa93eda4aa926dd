"""Holds back the output after the header of a part of type message/global.

Such a part becomes message/rfc822 if a header field inside it is downgraded, and otherwise keeps
its type (RFC 6532 section 3.7, RFC 6533 section 4.4).  The type precedes these fields, so
the output is held back, from the type on, until the type is known.
"""

from __future__ import annotations

from popserv.messages.octets import count_octets

MAX_HELD = 1 << 16
"""The maximum octets that are held back; if there are more, the types stay."""


class HeldOutput:
    """The headers of the open parts whose type may change, and all output after the first.

    The object is true while any such part is open.
    """

    def __init__(self) -> None:
        # Of each open part: its depth, the index of its header, and the header with the new type.
        self._open: list[tuple[int, int, bytes]] = []
        self._held: list[bytes] = []
        self._octets = 0

    def __bool__(self) -> bool:
        return bool(self._open)

    def open(self, depth: int, header: bytes, retyped: bytes) -> None:
        """Hold the header of a part within ``depth`` multiparts.

        ``retyped`` is the same header with the type of a downgraded body.
        """
        self._open.append((depth, len(self._held), retyped))
        self._held.append(header)

    def hold(self, text: bytes) -> bytes:
        """Hold output; return all held output if there is more than ``MAX_HELD``."""
        self._held.append(text)
        self._octets += len(text)
        return self.release() if self._octets > MAX_HELD else b""

    def change_types(self) -> tuple[int, bytes]:
        """Change the open parts to their new types, because a field inside has been downgraded.

        Return the octets that the wire form has gained, and all held output.
        """
        gained = 0
        for _, index, retyped in self._open:
            gained += count_octets([retyped]) - count_octets([self._held[index]])
            self._held[index] = retyped
        return gained, self.release()

    def close(self, level: int) -> bytes:
        """Close the parts within the multipart of this level.

        Return all held output if no part is open then.
        """
        self._open = [each for each in self._open if each[0] <= level]
        return b"" if self._open else self.release()

    def release(self) -> bytes:
        """Close all parts, and return all held output."""
        text = b"".join(self._held)
        self._open.clear()
        self._held.clear()
        self._octets = 0
        return text
