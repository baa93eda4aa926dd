"""Values that several tests of transports use."""

import struct

from twisted.internet.address import IPv4Address

REMOTE_PEER = IPv4Address("TCP", "192.0.2.1", 4321)

LINGER_RESET = struct.pack("ii", 1, 0)
"""The value of SO_LINGER with which close() resets the connection."""
