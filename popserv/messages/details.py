"""What mail stores know of a message beside its octets: when it was received, and its flags."""

from __future__ import annotations

from enum import Flag, auto
from typing import NamedTuple


class Flags(Flag):
    """The flags of a message, as mail programs show them: the system flags of IMAP, and forwarded.

    Each store has its own form of them (RFC 3501 section 2.3.2).
    """

    NONE = 0
    SEEN = auto()
    ANSWERED = auto()
    FLAGGED = auto()
    DELETED = auto()
    DRAFT = auto()
    FORWARDED = auto()


class MessageDetails(NamedTuple):
    """The time of delivery of a message, in seconds since 1970, and its flags.

    ``delivered`` is 0 if it is not known.
    """

    delivered: float = 0
    flags: Flags = Flags.NONE


NO_DETAILS = MessageDetails()
"""The details of a message of which nothing is known."""
