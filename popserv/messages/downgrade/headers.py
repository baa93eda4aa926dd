"""Downgrades the header fields of a message, within limits for the whole message."""

from __future__ import annotations

import re

from popserv.messages.downgrade.content import MAX_FIELD
from popserv.messages.fields.table import decode_field, downgrade_field

MAX_DOWNGRADED = 1 << 16
"""The maximum octets of a message's fields that are downgraded; later fields pass unchanged."""

MAX_FIELDS = 2000
"""The maximum number of a message's fields outside ASCII; later fields pass unchanged."""

_FIELD = re.compile(rb"[^\n]+(?:\n[ \t][^\n]*)*\n?|\n")


class HeaderDowngrader:
    """Downgrades the headers of one message.

    ``exceeded_limits`` turns true when a field passes unchanged that has to be downgraded, or
    may have to be.
    """

    exceeded_limits = False

    def __init__(self) -> None:
        self._octets_left = MAX_DOWNGRADED
        self._fields_left = MAX_FIELDS

    def downgrade(self, header: bytes) -> bytes:
        """Return a header with its fields downgraded; the same object if none changes."""
        if header.isascii():
            return header
        fields = _FIELD.findall(header)
        is_changed = False
        for index, field in enumerate(fields):
            if field.isascii():
                continue
            self._fields_left -= 1
            if self._fields_left < 0:
                self.exceeded_limits = True
                break
            if len(field) > min(MAX_FIELD, self._octets_left):
                self.exceeded_limits |= decode_field(field) is not None
            else:
                downgraded = downgrade_field(field)
                if downgraded is not field:
                    self._octets_left -= len(field)
                    fields[index] = downgraded
                    is_changed = True
        return b"".join(fields) if is_changed else header


def has_to_be_downgraded(header: bytes) -> bool:
    """Return whether a header has a field that has to be downgraded."""
    return not header.isascii() and any(map(decode_field, _FIELD.findall(header)))
