"""The forms of a message: its octets on the wire, its framing, its downgraded form.

This package may import the standard library and errors.
"""

from popserv.messages.downgrade.downgrader import Downgrader
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
from popserv.messages.sizes import MessageCounter, Sizes, measure
from popserv.messages.workarounds import WORKAROUNDS

__all__ = [
    "WORKAROUNDS",
    "Chunk",
    "Downgrader",
    "Filter",
    "FilteredFramer",
    "Framer",
    "ListingFramer",
    "MessageCounter",
    "MessageFramer",
    "OctetCounter",
    "Sizes",
    "TopFramer",
    "count_octets",
    "measure",
]
