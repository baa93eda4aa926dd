"""Tests of popserv.core.access_record."""

from twisted.trial.unittest import TestCase
from zope.interface import implementer

from popserv.core.access_record import AccessRecord
from popserv.interfaces import IMailbox
from popserv.maildrops.memory import MemoryMaildrops


@implementer(IMailbox)
class PlainMailbox:
    """A mailbox without IRetrievalRecord."""


class AccessRecordTests(TestCase):
    """LAST gives the highest message-number accessed (RFC 1460 section 5)."""

    async def open(self):
        """Return the messages of a mailbox of four, and its access record."""
        store = MemoryMaildrops()
        for _ in range(4):
            store.deliver(b"ann", b"x\n")
        self.store = store
        mailbox = await store.open_maildrop(b"ann")
        return mailbox.messages, AccessRecord(mailbox)

    async def test_plain_mailbox(self):
        """A session with a mailbox without IRetrievalRecord starts at 0, and saves nothing."""
        access = AccessRecord(PlainMailbox())
        self.assertEqual(await access.highest(), 0)
        messages, _ = await self.open()
        access.record_retrieval(messages[1])
        self.assertEqual(await access.highest(), 2)
        await access.save([])

    async def test_read_once(self):
        """The record of the mailbox is read once, when the number is first needed."""
        messages, access = await self.open()
        self.store.retrieved[b"ann"].add(messages[2].uid)
        access.record_access(2)
        self.assertEqual(await access.highest(), 3)
        self.store.retrieved[b"ann"].add(messages[3].uid)
        self.assertEqual(await access.highest(), 3)

    async def test_reset(self):
        """Retrievals of earlier sessions do not count after a reset to zero."""
        messages, access = await self.open()
        self.store.retrieved[b"ann"].add(messages[2].uid)
        access.reset_to_zero()
        self.assertEqual(await access.highest(), 0)
        access.reset_to_start()
        self.assertEqual(await access.highest(), 3)

    async def test_record(self):
        """All messages retrieved are saved, except those removed."""
        messages, access = await self.open()
        for message in (messages[3], messages[0], messages[1], messages[3]):
            access.record_retrieval(message)
        await access.save([messages[0]])
        self.assertEqual(self.store.retrieved[b"ann"], {messages[1].uid, messages[3].uid})

    async def test_no_retrievals(self):
        """A session without retrievals saves nothing."""
        _, access = await self.open()
        access.record_access(4)
        access.log = None
        self.store.retrieved.clear()
        await access.save([])
        self.assertEqual(self.store.retrieved, {})
