"""Read a directory of JSON items as mail: a gateway from something else to POP3.

    mkdir items
    echo '{"from": "feed@example.org", "subject": "hello", "text": "It works."}' > items/1.json
    POPSERV_PASSWORD=secret twistd -ny examples/json-gateway.tac
    curl --user reader:secret pop3://127.0.0.1:1110/1

The items are the files ``*.json`` of the directory, in the order of their names; a file that is
not such an item is left out and logged.  A message that the client deletes is removed from the
directory.  The settings are environment variables: POPSERV_ITEMS, the directory (``items``);
POPSERV_PASSWORD, the password of the one user, ``reader``; and POPSERV_LISTEN, the server endpoint.
"""

import json
import os
import sys
from datetime import datetime, timezone
from email.message import EmailMessage
from pathlib import Path

from twisted.application import service, strports
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import Portal
from twisted.logger import Logger
from zope.interface import implementer

from popserv.auth import MaildropRealm
from popserv.commands import capa, rfc1725, sasl
from popserv.core import CommandTable, Snapshot
from popserv.errors import MaildropBusy, RemovalFailed
from popserv.interfaces import IMailbox, IMaildropFactory
from popserv.messages import count_octets
from popserv.server import POP3Factory

log = Logger("json-gateway")


def read_item(path):
    """Return the message for an item.

    :raises ValueError: the file is not an item.
    """
    try:
        item = json.loads(path.read_bytes())
        message = EmailMessage()
        message["Date"] = datetime.fromtimestamp(path.stat().st_mtime, timezone.utc)
        message["From"] = item["from"]
        message["Subject"] = item["subject"]
        message.set_content(item["text"])
        return message.as_bytes()
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: {error!r}") from error


def unique_id(path):
    """Return the unique-id of an item: a file that replaces one of its name is another message."""
    found = path.stat()
    return b"%x.%x" % (found.st_ino, found.st_mtime_ns)


@implementer(IMaildropFactory)
class Items:
    """The store: one directory, which all users share, and one session at a time."""

    def __init__(self, directory):
        self.directory = Path(directory)
        self.is_locked = False

    async def open_maildrop(self, user):
        """See IMaildropFactory."""
        if self.is_locked:
            raise MaildropBusy
        mailbox = ItemsMailbox(self)
        self.is_locked = True
        return mailbox


@implementer(IMailbox)
class ItemsMailbox:
    """The mailbox: the items that there were when the session began."""

    def __init__(self, store):
        self.store = store
        self.found = {}
        for path in sorted(store.directory.glob("*.json")):
            try:
                self.found[unique_id(path)] = (path, read_item(path))
            except (OSError, ValueError) as error:
                log.warn("left out: {error}", error=error)
        sizes = [count_octets([message]) for _, message in self.found.values()]
        self.messages = Snapshot(sizes, list(self.found))

    async def open(self, message):
        """See IMailbox."""
        return [self.found[message.uid][1]]

    async def remove(self, messages):
        """See IMailbox."""
        remaining = 0
        for message in messages:
            path, _ = self.found[message.uid]
            try:
                # The client has not seen what has replaced it.
                if unique_id(path) == message.uid:
                    path.unlink()
            except FileNotFoundError:
                pass
            except OSError as error:
                remaining += 1
                log.error("cannot remove: {error}", error=error)
        if remaining:
            raise RemovalFailed(remaining)

    async def release(self):
        """See IMailbox."""
        self.store.is_locked = False


directory = os.environ.get("POPSERV_ITEMS", "items")
password = os.environ.get("POPSERV_PASSWORD")
if not os.path.isdir(directory):
    sys.exit(f"POPSERV_ITEMS={directory}: no such directory")
if not password:
    sys.exit("POPSERV_PASSWORD is not set; set it to the password of the user reader")

checker = InMemoryUsernamePasswordDatabaseDontUse(reader=password.encode())
table = CommandTable(rfc1725.COMMANDS, capa.COMMANDS, sasl.COMMANDS)
factory = POP3Factory(table, Portal(MaildropRealm(Items(directory)), [checker]))

application = service.Application("json-gateway")
endpoint = os.environ.get("POPSERV_LISTEN", "tcp:1110:interface=127.0.0.1")
strports.service(endpoint, factory).setServiceParent(application)
