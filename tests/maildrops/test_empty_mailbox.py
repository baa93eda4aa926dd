"""Tests of popserv.maildrops.empty_mailbox."""

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from popserv.core.snapshot import Snapshot
from popserv.errors import NoSuchMessage
from popserv.interfaces import IMailbox
from popserv.maildrops.empty_mailbox import EmptyMailbox
from popserv.messages.sizes import Sizes
from tests.maildrops.maildir.harness import result


class EmptyMailboxTests(SynchronousTestCase):
    """The mailbox of a user who has no maildrop yet."""

    def test_empty(self):
        """It has no message to open, nothing is removed, and it is unlocked when released."""
        unlocked = []
        mailbox = EmptyMailbox(lambda: unlocked.append(True))
        verifyObject(IMailbox, mailbox)
        self.assertEqual(len(mailbox.messages), 0)
        [message] = Snapshot.from_sizes([Sizes(5, None)], [b"other"])
        self.assertRaises(NoSuchMessage, result, mailbox.open(message))
        result(mailbox.remove([]))
        self.assertEqual(unlocked, [])
        result(mailbox.release())
        self.assertEqual(unlocked, [True])
