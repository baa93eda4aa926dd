"""popserv.maildrops.memory: the reference for what every store must do."""

from twisted.trial.unittest import SynchronousTestCase, TestCase

from popserv.maildrops.memory import MemoryMaildrops
from popserv.testing import MailboxContract


class MemoryContractTests(MailboxContract, TestCase):
    """MemoryMaildrops as a store."""

    def make_factory(self, messages):
        """Deliver the messages."""
        maildrops = MemoryMaildrops()
        for user, delivered in messages.items():
            for message in delivered:
                maildrops.deliver(user, message)
        return maildrops

    def remove_externally(self, factory, user, index):
        """Drop the message from what is stored."""
        stored = factory.stored[user]
        del stored[list(stored)[index]]
        return True


class DeliverTests(SynchronousTestCase):
    """MemoryMaildrops as a place to deliver to."""

    def test_unique_ids(self):
        """A delivery says which unique-id it got, and none is given twice."""
        maildrops = MemoryMaildrops()
        uids = [maildrops.deliver(user, b"x\n") for user in (b"ann", b"bob", b"ann")]
        self.assertEqual(len(set(uids)), 3)
        self.assertEqual(list(maildrops.stored[b"ann"]), uids[::2])
