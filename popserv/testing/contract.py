"""The contract of stores: the tests that every store must pass.

The module has more than 300 lines, because a store is tested with one class to mix in.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from inspect import isawaitable
from typing import Any, cast

from twisted.trial.unittest import SkipTest, TestCase
from zope.interface.verify import verifyObject

from popserv.errors import MaildropBusy, NoSuchMessage, RemovalFailed
from popserv.interfaces import IMailbox, IMaildropFactory, IRetrievalRecord
from popserv.messages.downgrade.downgrader import Downgrader
from popserv.messages.sizes import measure
from popserv.testing.messages import SAMPLE_MESSAGES, naive_octets, read_all


class MailboxContract:
    """The tests that every store must pass, to mix into a ``twisted.trial.unittest.TestCase``.

    Define ``make_factory(messages)``.  It returns an IMaildropFactory whose mailboxes contain the
    messages of each user, in this order and unchanged.

    Then define what other programs and the machine can do to the store: :meth:`deliver`,
    :meth:`remove_externally`, :meth:`another_factory`, :meth:`failing_open` and
    :meth:`failing_removal`.  The tests that need a method which is not defined are skipped.

    All of these but the last two may return an awaitable of their result.
    """

    make_factory: Callable[[dict[bytes, list[bytes]]], object]
    """Returns a store of the messages, which are a list for each user name."""

    def deliver(self, factory: IMaildropFactory, user: bytes, message: bytes) -> object:
        """Deliver a message to a user, as another program does, at any time."""
        raise SkipTest("define deliver to test deliveries")

    def remove_externally(self, factory: IMaildropFactory, user: bytes, index: int) -> object:
        """Remove a user's message as another program does, at any time.

        ``index`` is the position of the message among those that are in the store now.
        """
        raise SkipTest("define remove_externally to test removals by other programs")

    def another_factory(self, factory: IMaildropFactory) -> object:
        """Return another factory of the same store, as another process has, or a restarted one."""
        raise SkipTest("define another_factory to test a store that processes share")

    def failing_open(
        self, factory: IMaildropFactory, user: bytes
    ) -> AbstractContextManager[object]:
        """Return a context in which the user's mailbox cannot be opened, although it is not locked.

        The fault should come late: when the mailbox is locked, and its messages are listed.
        """
        raise SkipTest("define failing_open to test that no lock is kept")

    def failing_removal(
        self, factory: IMaildropFactory, user: bytes
    ) -> AbstractContextManager[object]:
        """Return a context in which at least one of the user's messages cannot be removed."""
        raise SkipTest("define failing_removal to test that errors are reported")

    # The assertions of the TestCase that this class is mixed into.
    @property
    def _case(self) -> TestCase:
        return cast(TestCase, self)

    async def _open(self, messages: list[bytes]) -> tuple[IMaildropFactory, IMailbox]:
        factory = await self._make_store({b"ann": messages})
        return factory, await factory.open_maildrop(b"ann")

    async def _make_store(self, messages: dict[bytes, list[bytes]]) -> IMaildropFactory:
        return cast(IMaildropFactory, await _result(self.make_factory(messages)))

    async def _make_stores(self, messages: list[bytes]) -> list[IMaildropFactory]:
        """Return two factories of one store."""
        factory = await self._make_store({b"ann": messages})
        return [factory, cast(IMaildropFactory, await _result(self.another_factory(factory)))]

    async def _list(self, factory: IMaildropFactory) -> tuple[list[bytes], list[bytes]]:
        """Return Ann's messages and their unique-ids, read in a session of their own."""
        mailbox = await factory.open_maildrop(b"ann")
        messages = await self._read_messages(mailbox)
        self._case.assertEqual(list(mailbox.messages.octets), [*map(naive_octets, messages)])
        await mailbox.release()
        return messages, list(mailbox.messages.uids)

    async def _remove(self, factory: IMaildropFactory, *positions: int) -> None:
        """Remove messages of Ann's in a session of its own."""
        mailbox = await factory.open_maildrop(b"ann")
        await mailbox.remove([mailbox.messages[position] for position in positions])
        await mailbox.release()

    async def _read_messages(self, mailbox: IMailbox) -> list[bytes]:
        return [await read_all(await mailbox.open(message)) for message in mailbox.messages]

    async def test_interfaces(self) -> None:
        """The factory and its mailboxes provide their interfaces."""
        factory, mailbox = await self._open([b"x\n"])
        self._case.assertTrue(verifyObject(IMaildropFactory, factory))
        self._case.assertTrue(verifyObject(IMailbox, mailbox))
        await mailbox.release()

    async def test_no_mail(self) -> None:
        """A user without mail has an empty mailbox."""
        factory = await self._make_store({})
        mailbox = await factory.open_maildrop(b"nobody")
        self._case.assertEqual(len(mailbox.messages), 0)
        await mailbox.remove([])
        await mailbox.release()

    async def test_messages_as_stored(self) -> None:
        """Messages are in the order of delivery, with their octets as stored."""
        _, mailbox = await self._open(SAMPLE_MESSAGES)
        self._case.assertEqual(await self._read_messages(mailbox), SAMPLE_MESSAGES)
        await mailbox.release()

    async def test_octets(self) -> None:
        """The octets of a message are those of its wire form (RFC 1725 section 10)."""
        _, mailbox = await self._open(SAMPLE_MESSAGES)
        self._case.assertEqual(
            [message.octets for message in mailbox.messages],
            [naive_octets(message) for message in SAMPLE_MESSAGES],
        )
        await mailbox.release()

    async def test_sizes(self) -> None:
        """A store that measures downgraded forms does so for each message."""
        _, mailbox = await self._open(SAMPLE_MESSAGES)
        messages = mailbox.messages
        if messages.downgraded or messages.header_only:
            downgrader = Downgrader if messages.downgraded else None
            measured = [measure([message], downgrader) for message in SAMPLE_MESSAGES]
            self._case.assertEqual(list(messages.sizes()), measured)
        await mailbox.release()

    async def test_unique_ids(self) -> None:
        """Unique-ids are valid, unique, and the same in later sessions (RFC 1725 section 7)."""
        factory, mailbox = await self._open([b"same\n", b"same\n", b"other\n"])
        first = [message.uid for message in mailbox.messages]
        for uid in first:
            self._case.assertTrue(re.fullmatch(rb"[\x21-\x7e]{1,70}", uid), uid)
        self._case.assertEqual(len(set(first)), 3)
        await mailbox.remove([mailbox.messages[0]])
        await mailbox.release()
        mailbox = await factory.open_maildrop(b"ann")
        self._case.assertEqual([message.uid for message in mailbox.messages], first[1:])
        await mailbox.release()

    async def test_equal_messages(self) -> None:
        """Of messages with the same octets, each has its unique-id until it is removed."""
        for at in range(3):
            factory, mailbox = await self._open([b"same\n"] * 3)
            uids = [message.uid for message in mailbox.messages]
            await mailbox.remove([mailbox.messages[at]])
            await mailbox.release()
            for _ in range(2):
                mailbox = await factory.open_maildrop(b"ann")
                self._case.assertEqual(
                    [message.uid for message in mailbox.messages], uids[:at] + uids[at + 1 :]
                )
                await mailbox.release()

    async def test_exclusive(self) -> None:
        """A second session cannot open a mailbox until the first releases the lock (section 4)."""
        factory, mailbox = await self._open([b"x\n"])
        with self._case.assertRaises(MaildropBusy):
            await factory.open_maildrop(b"ann")
        await mailbox.release()
        mailbox = await factory.open_maildrop(b"ann")
        await mailbox.release()

    async def test_exclusive_without_mail(self) -> None:
        """The mailbox of a user without mail is locked like any other."""
        factory = await self._make_store({})
        mailbox = await factory.open_maildrop(b"ann")
        with self._case.assertRaises(MaildropBusy):
            await factory.open_maildrop(b"ann")
        await mailbox.release()
        mailbox = await factory.open_maildrop(b"ann")
        await mailbox.release()

    async def test_exclusive_between_factories(self) -> None:
        """The lock excludes the sessions of all factories of the store, such as other processes."""
        factories = await self._make_stores([b"x\n"])
        for first, second in (factories, factories[::-1]):
            mailbox = await first.open_maildrop(b"ann")
            for factory in (second, first):
                with self._case.assertRaises(MaildropBusy):
                    await factory.open_maildrop(b"ann")
            await mailbox.release()

    async def test_unlocked_after_failure(self) -> None:
        """A mailbox that could not be opened is not locked, so that it can be opened later."""
        factory = await self._make_store({b"ann": [b"x\n"], b"bob": [b"y\n"]})
        with self.failing_open(factory, b"ann"):
            for _ in range(2):
                try:
                    await factory.open_maildrop(b"ann")
                except MaildropBusy:
                    self._case.fail("the lock was kept")
                except Exception:  # noqa: S112 - a store may raise any other error
                    continue
                self._case.fail("failing_open did not make open_maildrop fail")
        self._case.assertEqual((await self._list(factory))[0], [b"x\n"])

    async def test_users_are_independent(self) -> None:
        """The lock and the removals of one user do not affect another."""
        factory = await self._make_store({b"ann": [b"a\n"], b"bob": [b"b\n"]})
        anns = await factory.open_maildrop(b"ann")
        bobs = await factory.open_maildrop(b"bob")
        await anns.remove(anns.messages)
        self._case.assertEqual(await self._read_messages(bobs), [b"b\n"])
        await anns.release()
        await bobs.release()

    async def test_reading_removes_nothing(self) -> None:
        """Reading and releasing a mailbox removes no messages (section 6)."""
        factory, mailbox = await self._open(SAMPLE_MESSAGES)
        await self._read_messages(mailbox)
        await mailbox.release()
        mailbox = await factory.open_maildrop(b"ann")
        self._case.assertEqual(await self._read_messages(mailbox), SAMPLE_MESSAGES)
        await mailbox.release()

    async def test_remove(self) -> None:
        """Removed messages are absent from the next session; the others keep their order."""
        factory, mailbox = await self._open([b"1\n", b"2\n", b"3\n", b"4\n"])
        await mailbox.remove([mailbox.messages[2], mailbox.messages[0]])
        await mailbox.release()
        mailbox = await factory.open_maildrop(b"ann")
        self._case.assertEqual(await self._read_messages(mailbox), [b"2\n", b"4\n"])
        await mailbox.release()

    async def test_failed_removal(self) -> None:
        """A removal that fails raises RemovalFailed with the number of messages that remain.

        Messages that were not to be removed are never lost, and a later removal succeeds.
        """
        factory, mailbox = await self._open([b"1\n", b"2\n", b"3\n"])
        with self.failing_removal(factory, b"ann"):
            with self._case.assertRaises(RemovalFailed) as failed:
                await mailbox.remove(mailbox.messages[:2])
            await mailbox.release()
        left, _ = await self._list(factory)
        self._case.assertEqual(left[-1], b"3\n")
        self._case.assertEqual(failed.exception.remaining, len(left) - 1)
        self._case.assertGreater(len(left), 1)
        await self._remove(factory, *range(len(left) - 1))
        self._case.assertEqual((await self._list(factory))[0], [b"3\n"])

    async def test_removed_between_factories(self) -> None:
        """All factories of a store show the same messages, with the same unique-ids."""
        first, second = await self._make_stores([b"1\n", b"2\n", b"3\n"])
        listed = await self._list(first)
        self._case.assertEqual(await self._list(second), listed)
        await self._remove(second, 1)
        expected = [b"1\n", b"3\n"], [listed[1][0], listed[1][2]]
        for factory in (first, second):
            self._case.assertEqual(await self._list(factory), expected)

    async def test_retrieved(self) -> None:
        """A store with IRetrievalRecord returns the last retrieved message that remains."""
        factory, mailbox = await self._open([b"1\n", b"2\n", b"3\n"])
        record = IRetrievalRecord(mailbox, None)
        if record is not None:
            self._case.assertTrue(verifyObject(IRetrievalRecord, mailbox))
            await record.record_retrieved(mailbox.messages[:2])
            await mailbox.release()
            record = mailbox = await self._reopen(factory)
            self._case.assertEqual(await record.last_retrieved(), mailbox.messages[1])
            await mailbox.remove(mailbox.messages[:1])
            await mailbox.release()
            record = mailbox = await self._reopen(factory)
            self._case.assertEqual(await record.last_retrieved(), mailbox.messages[0])
            self._case.assertEqual(await self._read_messages(mailbox), [b"2\n", b"3\n"])
        await mailbox.release()

    async def _reopen(self, factory: IMaildropFactory) -> Any:
        return await factory.open_maildrop(b"ann")

    async def test_snapshot(self) -> None:
        """Removing messages does not change the snapshot of the session."""
        _, mailbox = await self._open([b"1\n", b"2\n"])
        before = list(mailbox.messages)
        await mailbox.remove([mailbox.messages[0]])
        self._case.assertEqual(list(mailbox.messages), before)
        await mailbox.release()

    async def test_removed_externally(self) -> None:
        """A message that another program removed cannot be opened; removing it is no error."""
        factory, mailbox = await self._open([b"1\n", b"2\n"])
        try:
            await _result(self.remove_externally(factory, b"ann", 0))
            with self._case.assertRaises(NoSuchMessage):
                await mailbox.open(mailbox.messages[0])
            body = await mailbox.open(mailbox.messages[1])
            self._case.assertEqual(await read_all(body), b"2\n")
            await mailbox.remove(mailbox.messages)
        finally:
            await mailbox.release()
        self._case.assertEqual(await self._list(factory), ([], []))

    async def test_removed_between_sessions(self) -> None:
        """A message that another program removed between sessions is absent from the next one."""
        factory = await self._make_store({b"ann": [b"1\n", b"2\n", b"3\n"]})
        _, uids = await self._list(factory)
        await _result(self.remove_externally(factory, b"ann", 1))
        expected = [b"1\n", b"3\n"], [uids[0], uids[2]]
        for _ in range(2):
            self._case.assertEqual(await self._list(factory), expected)

    async def test_delivery_between_sessions(self) -> None:
        """New mail comes last, and changes no unique-id."""
        factory = await self._make_store({b"ann": SAMPLE_MESSAGES[:2]})
        messages, uids = await self._list(factory)
        for message in SAMPLE_MESSAGES:
            await _result(self.deliver(factory, b"ann", message))
            messages.append(message)
            listed, new_uids = await self._list(factory)
            self._case.assertEqual(listed, messages)
            self._case.assertEqual(new_uids[:-1], uids)
            self._case.assertNotIn(new_uids[-1], uids)
            uids = new_uids

    async def test_first_delivery(self) -> None:
        """A user who had no mail sees the first message in the next session."""
        factory = await self._make_store({})
        self._case.assertEqual(await self._list(factory), ([], []))
        await _result(self.deliver(factory, b"ann", b"first\n"))
        self._case.assertEqual((await self._list(factory))[0], [b"first\n"])

    async def test_delivery_during_session(self) -> None:
        """Mail that arrives during a session is not in its snapshot, and survives its removals."""
        factory, mailbox = await self._open([b"1\n", b"2\n"])
        try:
            await _result(self.deliver(factory, b"ann", b"new\n"))
            self._case.assertEqual(await self._read_messages(mailbox), [b"1\n", b"2\n"])
            await mailbox.remove(mailbox.messages)
        finally:
            await mailbox.release()
        messages, uids = await self._list(factory)
        self._case.assertEqual(messages, [b"new\n"])
        self._case.assertNotIn(uids[0], mailbox.messages.uids)

    async def test_unique_ids_are_not_reused(self) -> None:
        """A unique-id is never used again, not even for the same octets (RFC 1725 section 7)."""
        factory = await self._make_store({b"ann": [b"same\n"] * 3})
        _, used = await self._list(factory)
        for positions in ((2,), (0, 1), (), (1,), (0,)):
            await self._remove(factory, *positions)
            await _result(self.deliver(factory, b"ann", b"same\n"))
            _, uids = await self._list(factory)
            self._case.assertNotIn(uids[-1], used)
            used.append(uids[-1])

    async def test_unique_ids_after_restart(self) -> None:
        """A unique-id is not used again either if no process remembers the removed message."""
        factory, restarted = await self._make_stores([b"same\n"])
        _, used = await self._list(factory)
        await self._remove(factory, 0)
        await _result(self.deliver(factory, b"ann", b"same\n"))
        _, uids = await self._list(restarted)
        self._case.assertNotIn(uids[0], used)


async def _result(outcome: object) -> object:
    return await outcome if isawaitable(outcome) else outcome
