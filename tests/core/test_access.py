"""What a session has accessed, and what of that a mailbox remembers."""

from twisted.trial.unittest import TestCase
from zope.interface import implementer

from popserv.core.access import AccessRecord
from popserv.interfaces import IMailbox
from popserv.maildrops.memory import MemoryMaildrops


@implementer(IMailbox)
class Forgetful:
    """A mailbox that remembers nothing."""


class AccessTests(TestCase):
    """The number, which LAST tells, and the record."""

    async def opened(self):
        """A mailbox of four messages, and its access."""
        store = MemoryMaildrops()
        for _ in range(4):
            store.deliver(b"ann", b"x\n")
        self.store = store
        mailbox = await store.open_maildrop(b"ann")
        return mailbox.messages, AccessRecord(mailbox)

    async def test_forgetful(self):
        """A mailbox that remembers nothing starts at zero, and is told nothing."""
        access = AccessRecord(Forgetful())
        self.assertEqual(await access.highest(), 0)
        messages, _ = await self.opened()
        access.record_retrieval(messages[1])
        self.assertEqual(await access.highest(), 2)
        await access.save([])

    async def test_asked_once(self):
        """The mailbox is asked when the number is, and not again."""
        messages, access = await self.opened()
        self.store.retrieved[b"ann"].add(messages[2].uid)
        access.record_access(2)
        self.assertEqual(await access.highest(), 3)
        self.store.retrieved[b"ann"].add(messages[3].uid)
        self.assertEqual(await access.highest(), 3)

    async def test_reset_before_asked(self):
        """What earlier sessions retrieved counts no more after a reset."""
        messages, access = await self.opened()
        self.store.retrieved[b"ann"].add(messages[2].uid)
        access.reset_to_zero()
        self.assertEqual(await access.highest(), 0)
        access.reset_to_start()
        self.assertEqual(await access.highest(), 3)

    async def test_record(self):
        """All that was retrieved is remembered, but for what was removed."""
        messages, access = await self.opened()
        for message in (messages[3], messages[0], messages[1], messages[3]):
            access.record_retrieval(message)
        await access.save([messages[0]])
        self.assertEqual(self.store.retrieved[b"ann"], {messages[1].uid, messages[3].uid})

    async def test_nothing(self):
        """A session that retrieved nothing asks nothing of the mailbox."""
        _, access = await self.opened()
        access.record_access(4)
        access.log = None
        self.store.retrieved.clear()
        await access.save([])
        self.assertEqual(self.store.retrieved, {})
