"""popserv before a realm that was written for twisted.mail, beside the server of twisted.mail.

    POPSERV_PASSWORD=secret twistd -ny examples/twisted-mail-realm.tac
    curl --user ann:secret pop3://127.0.0.1:1110/1
    curl --user ann:secret pop3://127.0.0.1:1111/1

The first port is popserv's, and the second one that of twisted.mail.  Both have the same portal,
so a program can change from one to the other: only the factory is another.  The settings are
environment variables: POPSERV_PASSWORD, the password of the user ``ann``, and POPSERV_LISTEN and
POPSERV_TWISTED_LISTEN, the server endpoints.
"""

import os
import sys
from hashlib import sha256
from io import BytesIO

from twisted.application import service, strports
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import IRealm, Portal
from twisted.internet.protocol import Factory
from twisted.mail.interfaces import IMailboxPOP3
from twisted.mail.pop3 import POP3, Mailbox
from zope.interface import implementer

from popserv.commands import capa, rfc1725, sasl
from popserv.core import CommandTable
from popserv.server import POP3Factory

# What the program had before: a mailbox, a realm and a portal.


class Notices(Mailbox):
    """A mailbox of twisted.mail: messages in a list, which are None when they are deleted."""

    def __init__(self, notices):
        self.notices = notices
        self.before = list(notices)

    def listMessages(self, index=None):
        """Return the size of each message, or of one; 0 if it is deleted."""
        sizes = [len(notice or b"") for notice in self.notices]
        return sizes if index is None else sizes[index]

    def getMessage(self, index):
        """Return a file with a message."""
        return BytesIO(self.notices[index])

    def getUidl(self, index):
        """Return the unique-id of a message."""
        return sha256(self.before[index]).hexdigest().encode()

    def deleteMessage(self, index):
        """Mark a message as deleted."""
        self.notices[index] = None

    def undeleteMessages(self):
        """Remove all marks."""
        self.notices[:] = self.before

    def sync(self):
        """Remove the messages that are marked."""
        self.notices[:] = [notice for notice in self.notices if notice is not None]


@implementer(IRealm)
class NoticesRealm:
    """A realm of twisted.mail: each user has the same first message."""

    def __init__(self):
        self.notices = {}

    def requestAvatar(self, avatarId, mind, *interfaces):
        """Return the mailbox of a user; see IRealm."""
        if IMailboxPOP3 not in interfaces:
            raise NotImplementedError
        welcome = b"Subject: welcome\n\nWelcome, %b.\n.\n" % avatarId
        notices = self.notices.setdefault(avatarId, [welcome])
        return IMailboxPOP3, Notices(notices), lambda: None


password = os.environ.get("POPSERV_PASSWORD")
if not password:
    sys.exit("POPSERV_PASSWORD is not set; set it to the password of the user ann")
portal = Portal(NoticesRealm(), [InMemoryUsernamePasswordDatabaseDontUse(ann=password.encode())])


class TwistedFactory(Factory):
    """The factory before: it makes the protocol of twisted.mail."""

    def buildProtocol(self, addr):
        """Return a protocol with the portal."""
        protocol = POP3()
        protocol.factory = self
        protocol.portal = portal
        # No timestamp: twisted.mail refuses every APOP (Python 3), but curl prefers it to PASS.
        protocol.magic = b"POP3 server ready"
        return protocol


# The factory after.
factory = POP3Factory(CommandTable(rfc1725.COMMANDS, capa.COMMANDS, sasl.COMMANDS), portal)

application = service.Application("twisted-mail-realm")
for variable, default, each in (
    ("POPSERV_LISTEN", "tcp:1110:interface=127.0.0.1", factory),
    ("POPSERV_TWISTED_LISTEN", "tcp:1111:interface=127.0.0.1", TwistedFactory()),
):
    strports.service(os.environ.get(variable, default), each).setServiceParent(application)
