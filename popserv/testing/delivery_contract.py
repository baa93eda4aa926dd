"""The contract of stores to which messages can be delivered: the tests that each must pass."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from inspect import isawaitable
from typing import Any, cast

from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from popserv.errors import MaildropBusy
from popserv.interfaces import IDelivery, IDeliveryStore, IMessageDetails
from popserv.messages.details import Flags, MessageDetails
from popserv.messages.framing import Chunk
from popserv.testing.messages import SAMPLE_MESSAGES, naive_octets, read_all

_USER = b"ann"
_TIME = 1_700_000_000


def body_of(message: bytes) -> Callable[[], Awaitable[Iterable[Chunk]]]:
    """Return what opens a message for :meth:`popserv.interfaces.IDelivery.deliver`.

    One of its two chunks has to be awaited.
    """

    async def rest() -> bytes:
        return message[5:]

    async def open_body() -> Iterable[Chunk]:
        return [message[:5], rest()]

    return open_body


class DeliveryContract:
    """The tests that a store with deliveries must pass.

    Mix it into a ``twisted.trial.unittest.TestCase`` and define ``make_delivery_store()``, which
    returns an IDeliveryStore without mail, or an awaitable of one.  Its mailboxes provide
    IMessageDetails.  If sessions of another process
    can use the store, define :meth:`restarted`, too, and if it changes messages :meth:`original`.
    """

    make_delivery_store: Callable[[], object]
    """Returns a store without mail."""

    flags = tuple(Flags)
    """The flags that the store keeps."""

    def restarted(self, store: IDeliveryStore) -> IDeliveryStore:
        """Return another factory of the same store."""
        return store

    def original(self, message: bytes) -> bytes:
        """Return the octets that were delivered, of a message as it is stored."""
        return message

    @property
    def _case(self) -> TestCase:
        return cast(TestCase, self)

    async def _make_store(self) -> IDeliveryStore:
        made = self.make_delivery_store()
        return cast(IDeliveryStore, await made if isawaitable(made) else made)

    def _messages(self) -> list[tuple[bytes, MessageDetails, bytes]]:
        """Return unique-ids, details and octets, with each flag and with several."""
        together = Flags.NONE
        for flag in self.flags:
            together |= flag
        flags = [Flags.NONE, *self.flags, together]
        return [
            # Three messages have the same time, and none is later than one after it.
            (
                b"id!%d" % (len(SAMPLE_MESSAGES) - at),
                MessageDetails(_TIME + at // 3, flags[at % len(flags)]),
                message,
            )
            for at, message in enumerate(SAMPLE_MESSAGES)
        ]

    async def _deliver(
        self, store: IDeliveryStore, messages: Sequence[tuple[bytes, MessageDetails, bytes]]
    ) -> list[bool]:
        delivery = await store.open_delivery(_USER)
        done = [
            await delivery.deliver(uid, details, body_of(message))
            for uid, details, message in messages
        ]
        await delivery.commit()
        await delivery.release()
        return done

    async def _check(
        self, store: IDeliveryStore, messages: Sequence[tuple[bytes, MessageDetails, bytes]]
    ) -> None:
        """Check that a session shows these messages and no others."""
        mailbox: Any = await store.open_maildrop(_USER)
        try:
            self._case.assertEqual(list(mailbox.messages.uids), [uid for uid, _, _ in messages])
            for message, (_, _, delivered) in zip(mailbox.messages, messages, strict=True):
                stored = await read_all(await mailbox.open(message))
                self._case.assertEqual(naive_octets(stored), message.octets)
                self._case.assertEqual(_lines(self.original(stored)), _lines(delivered))
            verifyObject(IMessageDetails, mailbox)
            found = mailbox.details()
            expected = [details for _, details, _ in messages]
            self._case.assertEqual([*(await found if isawaitable(found) else found)], expected)
        finally:
            await mailbox.release()

    async def test_delivery_interfaces(self) -> None:
        """The store provides IDeliveryStore, and its deliveries IDelivery."""
        store = await self._make_store()
        verifyObject(IDeliveryStore, store)
        delivery = await store.open_delivery(_USER)
        verifyObject(IDelivery, delivery)
        self._case.assertEqual(list(delivery.unique_ids), [])
        await delivery.release()

    async def test_delivered(self) -> None:
        """Order, octets, unique-ids, times and flags are as delivered, after a restart as well."""
        store = await self._make_store()
        messages = self._messages()
        self._case.assertEqual(await self._deliver(store, messages), [True] * len(messages))
        await self._check(store, messages)
        await self._check(self.restarted(store), messages)

    async def test_delivered_again(self) -> None:
        """A message that is there is not delivered again, and not opened; others follow it."""
        store = await self._make_store()
        messages = self._messages()
        await self._deliver(store, messages[:4])
        delivery = await store.open_delivery(_USER)
        self._case.assertEqual({*delivery.unique_ids}, {uid for uid, _, _ in messages[:4]})
        opened, done = [], []
        for uid, details, message in (*messages, *messages[3:6]):

            async def open_body(uid: bytes = uid, message: bytes = message) -> Iterable[Chunk]:
                opened.append(uid)
                return [message]

            done.append(await delivery.deliver(uid, details, open_body))
        self._case.assertEqual(opened, [uid for uid, _, _ in messages[4:]])
        self._case.assertEqual(done, [False] * 4 + [True] * (len(messages) - 4) + [False] * 3)
        await delivery.commit()
        await delivery.commit()
        await delivery.release()
        await self._check(store, messages)

    async def test_not_committed(self) -> None:
        """What was not committed is not there, and can be delivered later."""
        store = await self._make_store()
        messages = self._messages()
        delivery = await store.open_delivery(_USER)
        await delivery.deliver(messages[0][0], messages[0][1], body_of(messages[0][2]))
        await delivery.commit()
        await delivery.deliver(messages[1][0], messages[1][1], body_of(messages[1][2]))
        self._case.assertEqual({*delivery.unique_ids}, {uid for uid, _, _ in messages[:2]})
        await delivery.release()
        await self._check(store, messages[:1])
        await self._deliver(store, messages)
        await self._check(store, messages)

    async def test_failing_body(self) -> None:
        """A message that cannot be opened or read is not there, and the others are."""
        store = await self._make_store()
        messages = self._messages()
        delivery = await store.open_delivery(_USER)

        async def fail() -> Any:
            raise KeyError(1)

        async def open_failing() -> Iterable[Chunk]:
            return [b"x" * 10, fail()]

        for uid, details, message in messages[:3]:
            for open_body in (fail, open_failing):
                with self._case.assertRaises(KeyError):
                    await delivery.deliver(uid, details, open_body)
            if uid != messages[1][0]:
                await delivery.deliver(uid, details, body_of(message))
        await delivery.commit()
        await delivery.release()
        await self._check(store, [messages[0], messages[2]])

    async def test_delivery_exclusive(self) -> None:
        """There is one session or delivery at a time."""
        store = await self._make_store()
        other = self.restarted(store)
        delivery = await store.open_delivery(_USER)
        for open_ in (store.open_delivery, store.open_maildrop, other.open_maildrop):
            with self._case.assertRaises(MaildropBusy):
                await open_(_USER)
        await delivery.release()
        mailbox = await other.open_maildrop(_USER)
        with self._case.assertRaises(MaildropBusy):
            await store.open_delivery(_USER)
        await mailbox.release()
        await (await store.open_delivery(_USER)).release()

    async def test_session_between(self) -> None:
        """A factory that knows the mailbox shows what another one delivers to it."""
        store = await self._make_store()
        other = self.restarted(store)
        messages = self._messages()
        for count in (1, 3, len(messages)):
            await self._deliver(store, messages[:count])
            await self._check(other, messages[:count])


def _lines(message: bytes) -> list[bytes]:
    """Return the lines of a message as clients see them: the last one has a line end."""
    lines = message.replace(b"\r\n", b"\n").split(b"\n")
    return lines[:-1] if lines[-1] == b"" else lines
