"""The forms of a message: its octets on the wire, its framing, its downgraded form.

This package may import the standard library, errors and runtime.speedups.  It does not import
:mod:`popserv.messages.downgrade`, which only servers with UTF8 need.
"""

from popserv.messages.details import Flags, MessageDetails
from popserv.messages.framing import (
    Chunk,
    Filter,
    FilteredFramer,
    Framer,
    ListingFramer,
    MessageFramer,
    TopFramer,
)
from popserv.messages.octets import OctetCounter, count_octets
from popserv.messages.sizes import MakeDowngrader, MessageCounter, Sizes, measure
from popserv.messages.workarounds import WORKAROUNDS

__all__ = [
    "WORKAROUNDS",
    "Chunk",
    "Filter",
    "FilteredFramer",
    "Flags",
    "Framer",
    "ListingFramer",
    "MakeDowngrader",
    "MessageCounter",
    "MessageDetails",
    "MessageFramer",
    "OctetCounter",
    "Sizes",
    "TopFramer",
    "count_octets",
    "measure",
]
