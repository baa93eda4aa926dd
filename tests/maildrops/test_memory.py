"""popserv.maildrops.memory: the reference implementation of a store."""

from contextlib import contextmanager
from copy import copy

from twisted.trial.unittest import SynchronousTestCase, TestCase

from popserv.maildrops.memory import MemoryMaildrops
from popserv.maildrops.spooling import MAX_IN_MEMORY
from popserv.messages.details import NO_DETAILS, Flags, MessageDetails
from popserv.messages.downgrade.downgrader import Downgrader
from popserv.testing import DeliveryContract, MailboxContract, NewMailContract
from popserv.testing.delivery_contract import body_of
from tests.maildrops.maildir.harness import result
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


class NewMailContractTests(NewMailContract, TestCase):
    """MemoryMaildrops fulfils the contract of new mail."""

    make_new_mail_store = staticmethod(MemoryMaildrops)


class DeliveryContractTests(DeliveryContract, TestCase):
    """MemoryMaildrops fulfils the contract of deliveries."""

    def make_delivery_store(self):
        """Return an empty store."""
        return MemoryMaildrops()


class DowngradingContractTests(MemoryContract, TestCase):
    """The contract holds in a server with UTF8."""

    downgrader = Downgrader


class DetailsTests(SynchronousTestCase):
    """What is known of messages in memory."""

    def test_retrieved(self):
        """A message that was retrieved counts as read."""
        maildrops = MemoryMaildrops()
        maildrops.deliver(b"ann", b"x\n")
        mailbox = result(maildrops.open_maildrop(b"ann"))
        self.assertEqual(mailbox.details(), [NO_DETAILS])
        result(mailbox.record_retrieved(mailbox.messages))
        self.assertEqual(mailbox.details(), [MessageDetails(0, Flags.SEEN)])

    def test_delivered_as_read(self):
        """A message that is delivered as one that was read counts as retrieved."""
        maildrops = MemoryMaildrops()
        delivery = result(maildrops.open_delivery(b"ann"))
        for uid, flags in ((b"read", Flags.SEEN), (b"new", Flags.NONE)):
            result(delivery.deliver(uid, MessageDetails(0, flags), body_of(b"x\n")))
        result(delivery.commit())
        result(delivery.release())
        mailbox = result(maildrops.open_maildrop(b"ann"))
        self.assertEqual(result(mailbox.last_retrieved()).uid, b"read")

    def test_removed_meanwhile(self):
        """What one commit has stored is not stored again by the next one."""
        maildrops = MemoryMaildrops()
        delivery = result(maildrops.open_delivery(b"ann"))
        for uid in (b"1", b"2"):
            result(delivery.deliver(uid, NO_DETAILS, body_of(b"x\n")))
            result(delivery.commit())
            maildrops.stored[b"ann"].pop(b"1", None)
            result(delivery.commit())
        self.assertEqual([*maildrops.stored[b"ann"]], [b"2"])

    def test_large(self):
        """A large message is spooled to a file meanwhile."""
        maildrops = MemoryMaildrops()
        delivery = result(maildrops.open_delivery(b"ann"))
        message = b"x" * (MAX_IN_MEMORY + 1)
        result(delivery.deliver(b"id", NO_DETAILS, body_of(message)))
        result(delivery.commit())
        self.assertEqual(maildrops.stored[b"ann"], {b"id": message})

    def test_users(self):
        """The users are those who have a maildrop."""
        maildrops = MemoryMaildrops()
        for user in (b"bob", b"ann"):
            maildrops.deliver(user, b"x\n")
        self.assertEqual(result(maildrops.users()), [b"ann", b"bob"])


class DeliverTests(SynchronousTestCase):
    """Messages are delivered to MemoryMaildrops."""

    def test_unique_ids(self):
        """A delivery returns the unique-id of the message, which is the next one for all users."""
        maildrops = MemoryMaildrops()
        uids = [maildrops.deliver(user, b"x\n") for user in (b"ann", b"bob", b"ann")]
        self.assertEqual(uids, [b"m1", b"m2", b"m3"])
        self.assertEqual(list(maildrops.stored[b"ann"]), uids[::2])
