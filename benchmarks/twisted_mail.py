"""Run the POP3 server of twisted.mail as a peer: ``python twisted_mail.py PORT TLS_PORT ROOT PEM``.

``twisted.mail.maildir.MaildirMailbox`` does not work on Python 3.  The mailbox here does
the same in the simplest way: it reads the names and sizes of the files in new/ and cur/
at each login.  As in twisted.mail, the size of a message is that of its file, in which a
line ending is one octet.  That is wrong, but the correct size would require this peer to
read all mail at each login, which users of twisted.mail do not do either.
"""

import os
import sys

from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import IRealm, Portal
from twisted.internet import reactor
from twisted.internet.protocol import ServerFactory
from twisted.internet.ssl import CertificateOptions, PrivateCertificate
from twisted.mail import pop3
from zope.interface import implementer


@implementer(pop3.IMailbox)
class Mailbox:
    """A snapshot of one Maildir, made at login."""

    def __init__(self, maildir):
        files = []
        for folder in ("new", "cur"):
            with os.scandir(os.path.join(maildir, folder)) as entries:
                files += [(entry.name, entry.path, entry.stat().st_size) for entry in entries]
        files.sort()
        self._uids = [name.partition(":")[0].encode("ascii") for name, _, _ in files]
        self._paths = [path for _, path, _ in files]
        self._sizes = [size for _, _, size in files]
        self._marked = set()

    def listMessages(self, index=None):
        """Return the size of one message, or of all; that of a deleted message is 0."""
        return self._sizes if index is None else self._sizes[index]

    def getMessage(self, index):
        """Return an open file with the message."""
        return open(self._paths[index], "rb")

    def getUidl(self, index):
        """Return the unique-id: the file name up to the colon."""
        return self._uids[index]

    def deleteMessage(self, index):
        """Mark a message as deleted."""
        self._marked.add(index)
        self._sizes[index] = 0

    def undeleteMessages(self):
        """Do nothing: no workload sends RSET."""

    def sync(self):
        """Remove the messages that are marked as deleted."""
        for index in self._marked:
            os.unlink(self._paths[index])


@implementer(IRealm)
class Realm:
    """The Maildirs in a directory, one per user."""

    def __init__(self, root):
        self._root = root

    def requestAvatar(self, name, mind, *interfaces):
        """Return the user's mailbox."""
        maildir = os.path.join(self._root, name.decode("ascii"))
        return pop3.IMailbox, Mailbox(maildir), lambda: None


class Factory(ServerFactory):
    """Builds protocols that authenticate against a portal."""

    noisy = False

    def __init__(self, portal):
        self._portal = portal

    def buildProtocol(self, address):
        """Return the protocol for a new connection."""
        protocol = pop3.POP3()
        protocol.factory = self
        protocol.portal = self._portal
        return protocol


def main(port, tls_port, root, pem):
    """Serve until the process receives a signal."""
    checker = InMemoryUsernamePasswordDatabaseDontUse()
    with open(os.path.join(root, ".users"), "rb") as file:
        for line in file:
            name, _, secret = line.rstrip().partition(b":{PLAIN}")
            checker.addUser(name, secret)
    factory = Factory(Portal(Realm(root), [checker]))
    with open(pem, "rb") as file:
        loaded = PrivateCertificate.loadPEM(file.read())
    tls = CertificateOptions(
        privateKey=loaded.privateKey.original,
        certificate=loaded.original,
        enableSessionTickets=True,
    )
    reactor.listenTCP(int(port), factory, backlog=1024, interface="127.0.0.1")
    reactor.listenSSL(int(tls_port), factory, tls, backlog=1024, interface="127.0.0.1")
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
