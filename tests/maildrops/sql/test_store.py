"""The SQL store fulfils the contracts of all stores, also with two factories of one database."""

from contextlib import contextmanager
from unittest import mock

from popserv.messages.downgrade.downgrader import Downgrader
from popserv.runtime.bus import WorkerBus
from popserv.testing import DeliveryContract, MailboxContract, NewMailContract
from tests.maildrops.sql.harness import SQLCase, wait_for

REMOVE = """
WITH changed AS (
    UPDATE maildrop SET state = gen_random_uuid(), epoch = gen_random_uuid() WHERE name = %s
    RETURNING id
), gone AS (
    SELECT position FROM message WHERE maildrop IN (SELECT id FROM changed)
    ORDER BY position OFFSET %s LIMIT 1
)
DELETE FROM message USING changed, gone
WHERE message.maildrop = changed.id AND message.position = gone.position
"""


class ContractTests(SQLCase, MailboxContract):
    """The contract, with what an administrator can do to the database."""

    settings = {}

    async def make_factory(self, messages):
        """Deliver the messages."""
        store = self.make_store(**self.settings)
        for user, delivered in messages.items():
            for message in delivered:
                await self.deliver(store, user, message)
        return store

    def another_factory(self, factory):
        """Return a store with connections, leases and caches of its own."""
        return self.make_store(**self.settings)

    def remove_externally(self, factory, user, index):
        """Delete a row."""
        self.sql(REMOVE, user, index)

    @contextmanager
    def failing_open(self, factory, user):
        """Rename a table that is read after the lock was taken."""
        self.sql("ALTER TABLE message RENAME TO other")
        yield
        self.sql("ALTER TABLE other RENAME TO message")

    @contextmanager
    def failing_removal(self, factory, user):
        """Give the lock to another session."""
        self.sql("UPDATE maildrop SET holder = gen_random_uuid() WHERE name = %s", user)
        yield
        self.sql("UPDATE maildrop SET holder = NULL WHERE name = %s", user)


class DowngradingContractTests(ContractTests):
    """The contract for a server with UTF8, and without a cache."""

    settings = {"downgrader": Downgrader, "cache_messages": 0}


class DeliveryContractTests(SQLCase, DeliveryContract):
    """The contract of deliveries with unique-ids."""

    settings = {}

    def make_delivery_store(self):
        """Return an empty store."""
        return self.make_store(**self.settings)

    def restarted(self, store):
        """Return another factory."""
        return self.make_store(**self.settings)


class NewMailContractTests(SQLCase, NewMailContract):
    """The contract of new mail."""

    settings = {}

    def make_new_mail_store(self):
        """Return an empty store."""
        return self.make_store(**self.settings)

    def restarted(self, store):
        """Return another factory."""
        return self.make_store(**self.settings)


class SharingTests(SQLCase):
    """What a store shares with those of other hosts."""

    async def test_share(self):
        """What is published by a process reaches the subscribers of another one."""
        secrets, received = [], []
        one, two = WorkerBus(), WorkerBus()
        two.subscribe("colours", mock.Mock(receive=lambda update, offset: received.append(update)))
        for bus in (one, two):
            self.make_store().share(bus, secrets.append)
        await wait_for(lambda: len(secrets) == 2, "the secrets")
        one.publish("colours", "red")
        await wait_for(lambda: received, "the update")
        self.assertEqual(received, ["red"])
        self.assertEqual(secrets[0], secrets[1])
