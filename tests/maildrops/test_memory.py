"""popserv.maildrops.memory: the reference implementation of a store."""

from contextlib import contextmanager
from copy import copy

from twisted.trial.unittest import SynchronousTestCase, TestCase

from popserv.maildrops.memory import MemoryMaildrops
from popserv.messages.downgrade.downgrader import Downgrader
from popserv.testing import MailboxContract
from tests.maildrops.model import ModelMixin


class MemoryContract(MailboxContract):
    """The contract of all stores, for MemoryMaildrops."""

    downgrader = None
    store = MemoryMaildrops

    def make_factory(self, messages):
        """Deliver the messages."""
        maildrops = self.store(self.downgrader)
        for user, delivered in messages.items():
            for message in delivered:
                maildrops.deliver(user, message)
        return maildrops

    def remove_externally(self, factory, user, index):
        """Delete a message from the stored ones."""
        stored = factory.stored[user]
        del stored[list(stored)[index]]

    def deliver(self, factory, user, message):
        """Deliver a message."""
        factory.deliver(user, message)

    def another_factory(self, factory):
        """Return a copy, which shares the messages and the locks."""
        return copy(factory)

    @contextmanager
    def failing_open(self, factory, user):
        """Store something that is not a message."""
        uid = factory.deliver(user, None)
        yield
        del factory.stored[user][uid]


class MemoryContractTests(ModelMixin, MemoryContract, TestCase):
    """MemoryMaildrops fulfils the contract, and behaves as the model does."""


class DowngradingContractTests(MemoryContract, TestCase):
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
