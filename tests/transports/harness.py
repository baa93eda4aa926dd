"""What the tests of transports share."""

import struct

from twisted.internet.address import IPv4Address

STRANGER = IPv4Address("TCP", "192.0.2.1", 4321)

RESET = struct.pack("ii", 1, 0)
"""A linger that has close() break the connection."""
