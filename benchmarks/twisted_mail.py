"""The POP3 server of twisted.mail, as a peer: ``python twisted_mail.py PORT ROOT``.

``twisted.mail.maildir.MaildirMailbox`` does not work on Python 3, so the mailbox here is
its like, in the plainest way: the names and sizes of new/ and cur/, read at each login.
As there, a size is the file's, with each line's end counted as one octet: wrong, but to
count right would cost this peer a reading of all mail at each login, which nobody who
uses it has written.
"""

import os
import sys

from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import IRealm, Portal
from twisted.internet import reactor
from twisted.internet.protocol import ServerFactory
from twisted.mail import pop3
from zope.interface import implementer


@implementer(pop3.IMailbox)
class Mailbox:
    """One Maildir, as it was at login."""

    def __init__(self, maildir):
        found = []
        for folder in ("new", "cur"):
            with os.scandir(os.path.join(maildir, folder)) as entries:
                found += [(entry.name, entry.path, entry.stat().st_size) for entry in entries]
        found.sort()
        self._uids = [name.partition(":")[0].encode("ascii") for name, _, _ in found]
        self._paths = [path for _, path, _ in found]
        self._sizes = [size for _, _, size in found]
        self._marked = set()

    def listMessages(self, index=None):
        """Return all sizes, or one; 0 is a deleted message's."""
        return self._sizes if index is None else self._sizes[index]

    def getMessage(self, index):
        """Return an open file."""
        return open(self._paths[index], "rb")

    def getUidl(self, index):
        """Return the unique-id, which is the name up to the flags."""
        return self._uids[index]

    def deleteMessage(self, index):
        """Mark a message."""
        self._marked.add(index)
        self._sizes[index] = 0

    def undeleteMessages(self):
        """Leave the marks: no workload asks for this."""

    def sync(self):
        """Remove what is marked."""
        for index in self._marked:
            os.unlink(self._paths[index])


@implementer(IRealm)
class Realm:
    """The Maildirs below a directory, one a user."""

    def __init__(self, root):
        self._root = root

    def requestAvatar(self, name, mind, *interfaces):
        """Return the user's mailbox."""
        maildir = os.path.join(self._root, name.decode("ascii"))
        return pop3.IMailbox, Mailbox(maildir), lambda: None


class Factory(ServerFactory):
    """Makes protocols that ask the portal."""

    noisy = False

    def __init__(self, portal):
        self._portal = portal

    def buildProtocol(self, address):
        """Return a server's end of a connection."""
        protocol = pop3.POP3()
        protocol.factory = self
        protocol.portal = self._portal
        return protocol


def main(port, root):
    """Serve until a signal comes."""
    checker = InMemoryUsernamePasswordDatabaseDontUse()
    with open(os.path.join(root, ".users"), "rb") as file:
        for line in file:
            name, _, secret = line.rstrip().partition(b":{PLAIN}")
            checker.addUser(name, secret)
    reactor.listenTCP(
        int(port), Factory(Portal(Realm(root), [checker])), backlog=1024, interface="127.0.0.1"
    )
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
