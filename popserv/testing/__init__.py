"""Support for the tests of servers and stores that are built on popserv.

:class:`MailboxContract` has the tests that every store must pass.  :class:`MemoryClient`
connects to a server in memory, with a clock that the test advances.
"""

from popserv.testing.client import MemoryClient, MemoryTransport
from popserv.testing.contract import MailboxContract
from popserv.testing.messages import SAMPLE_MESSAGES, naive_octets, read_all

__all__ = [
    "SAMPLE_MESSAGES",
    "MailboxContract",
    "MemoryClient",
    "MemoryTransport",
    "naive_octets",
    "read_all",
]
