"""What the store tells of its database, for the metrics."""

from zope.interface.verify import verifyObject

from popserv.interfaces import IMeasuredStore
from popserv.maildrops.sql import collector
from popserv.maildrops.sql.objects import ObjectStore
from tests.maildrops.sql.harness import SQLCase


class SurveyTests(SQLCase):
    """IMeasuredStore."""

    async def test_survey(self):
        """The numbers are those of the last ANALYZE, and of the objects that are due."""
        store = self.make_store()
        verifyObject(IMeasuredStore, store)
        nothing = {"maildrops": 0, "messages": 0, "collection_delay": 0, "standbys": 0}
        # PostgreSQL has not yet counted.
        self.assertEqual(await store.survey(), nothing)
        self.sql("VACUUM (ANALYZE) maildrop, message")
        self.assertEqual(await store.survey(), nothing)
        for name in (b"ann", b"bob"):
            for _ in range(3):
                await self.deliver(store, name, b"x\n")
        self.sql("ANALYZE maildrop, message")
        self.sql("INSERT INTO doomed (key, due) VALUES (gen_random_uuid(), now() + interval '9 s')")
        self.assertEqual(await store.survey(), {**nothing, "maildrops": 2, "messages": 6})
        self.sql("UPDATE doomed SET due = now() - interval '1 h'")
        self.assertGreaterEqual((await store.survey())["collection_delay"], 3600)

    async def test_counts(self):
        """The process knows its leases, and how many objects it has removed."""
        store = self.make_store()
        self.assertEqual(store.counts(), {"waiting": 0, "leases": 0, "collected": 0})
        store = self.make_store(objects=ObjectStore("memory:///"))
        mailbox = await store.open_maildrop(b"ann")
        self.assertEqual(store.counts()["leases"], 1)
        await mailbox.release()
        self.patch(collector, "AT_ONCE", 2)
        self.sql(
            "INSERT INTO doomed (key, due)"
            "SELECT gen_random_uuid(), now() - interval '1 s' FROM generate_series(1, 3)"
        )
        await store.collect(lambda number: None)
        self.assertEqual(store.counts(), {"waiting": 0, "leases": 0, "collected": 3})

    async def test_measure(self):
        """Statements are told to whoever measures."""
        store, seen = self.make_store(), []
        store.measure(lambda outcome, seconds: seen.append(outcome))
        await store.survey()
        self.assertEqual(seen, ["done"])
