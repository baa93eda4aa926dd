"""The stores as other programs read and change them: with their locks, and no code of popserv.

A *key* is how a program finds a message again: the base name in a Maildir, the From_ line in an
mbox file, the time of modification and the octets in an MH folder, the id in the database.
"""

from tests.soak.stores.base import Memory, Vanished
from tests.soak.stores.maildir import Maildir
from tests.soak.stores.mbox import Mbox
from tests.soak.stores.mh import MH
from tests.soak.stores.sql import SQL

STORES = {"memory": Memory, "maildir": Maildir, "mbox": Mbox, "mh": MH, "sql": SQL}
"""All stores by name."""

__all__ = ["STORES", "Vanished"]
