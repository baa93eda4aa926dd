"""popserv.maildrops.memory: the reference implementation of a store."""

from twisted.trial.unittest import SynchronousTestCase, TestCase

from popserv.maildrops.memory import MemoryMaildrops
from popserv.messages.downgrade.downgrader import Downgrader
from popserv.testing import MailboxContract


class MemoryContractTests(MailboxContract, TestCase):
    """MemoryMaildrops fulfils the contract of all stores."""

    downgrader = None

    def make_factory(self, messages):
        """Deliver the messages."""
        maildrops = MemoryMaildrops(self.downgrader)
        for user, delivered in messages.items():
            for message in delivered:
                maildrops.deliver(user, message)
        return maildrops

    def remove_externally(self, factory, user, index):
        """Delete a message from the stored ones."""
        stored = factory.stored[user]
        del stored[list(stored)[index]]
        return True


class DowngradingContractTests(MemoryContractTests):
    """The contract holds in a server with UTF8."""

    downgrader = Downgrader


class DeliverTests(SynchronousTestCase):
    """Messages are delivered to MemoryMaildrops."""

    def test_unique_ids(self):
        """A delivery returns the unique-id of the message, and no two messages have the same."""
        maildrops = MemoryMaildrops()
        uids = [maildrops.deliver(user, b"x\n") for user in (b"ann", b"bob", b"ann")]
        self.assertEqual(len(set(uids)), 3)
        self.assertEqual(list(maildrops.stored[b"ann"]), uids[::2])
