"""Support for the tests of mail programs, and of servers and stores that are built on popserv.

:func:`running_server` starts a server for the tests of a mail program, and can inject faults.
:class:`MailboxContract` has the tests that every store must pass, and
:class:`DeliveryContract` those of a store that messages can be copied to, and
:class:`NewMailContract` those of one that new mail is delivered to.  :class:`MemoryClient`
connects to a server in memory, with a clock that the test advances.
"""

from popserv.testing.client import MemoryClient, MemoryTransport
from popserv.testing.contract import MailboxContract
from popserv.testing.delivery_contract import DeliveryContract
from popserv.testing.faulty.faults import Faults
from popserv.testing.faulty.transcript import Line
from popserv.testing.host_process import ServerError
from popserv.testing.messages import SAMPLE_MESSAGES, naive_octets, read_all
from popserv.testing.new_mail_contract import NewMailContract
from popserv.testing.running import RunningServer, running_server

__all__ = [
    "SAMPLE_MESSAGES",
    "DeliveryContract",
    "Faults",
    "Line",
    "MailboxContract",
    "MemoryClient",
    "MemoryTransport",
    "NewMailContract",
    "RunningServer",
    "ServerError",
    "naive_octets",
    "read_all",
    "running_server",
]
