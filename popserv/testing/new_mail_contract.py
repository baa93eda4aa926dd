"""The contract of stores to which new mail is delivered: the tests that each must pass."""

from __future__ import annotations

from collections.abc import Callable
from inspect import isawaitable
from io import BytesIO
from typing import Any, cast

from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from popserv.core.user_settings import NO_SETTINGS
from popserv.interfaces import IFinalDelivery
from popserv.testing.messages import naive_octets, read_all

_USER = b"ann"

MESSAGES = (
    b"Return-Path: <bob@example.org>\nSubject: one\n\nHello.\n",
    b"Subject: two\r\n\r\n.\r\n..\r\nlast line\r\n",
    b"Return-Path: <>\nSubject: three\n\nCR \r in a line\ntwo CRs at the end\r\r\nend\n",
    b"Subject: four\n\n\xff\0\xfe\n",
    b"Return-Path: <>\n",
    b"Subject: six\n\n" + b"a line that is repeated often\n" * 50_000,
    b"Subject: seven\n\n" + b"x" * 100_000 + b"\n",
)
"""Messages as they are delivered: most lines end with LF."""


class NewMailContract:
    """The tests that a store which takes new mail must pass.

    Mix it into a ``twisted.trial.unittest.TestCase`` and define ``make_new_mail_store()``, which
    returns an IFinalDelivery without mail, or an awaitable of one.  If sessions of another process
    can use the store, define :meth:`restarted`, too.
    """

    make_new_mail_store: Callable[[], object]
    """Returns a store without mail."""

    def restarted(self, store: Any) -> Any:
        """Return another factory of the same store."""
        return store

    @property
    def _case(self) -> TestCase:
        return cast(TestCase, self)

    async def _make_store(self) -> Any:
        made = self.make_new_mail_store()
        return await made if isawaitable(made) else made

    async def _deliver(self, store: Any, message: bytes) -> bytes | None:
        file = BytesIO(message)
        file.seek(0, 2)
        unique_id: bytes | None = await store.deliver_new(_USER, NO_SETTINGS, file)
        return unique_id

    async def _check(self, store: Any, messages: list[tuple[bytes, bytes | None]]) -> None:
        """Check that a session shows messages with their unique-ids and no others."""
        mailbox: Any = await store.open_maildrop(_USER)
        try:
            self._case.assertEqual(len(mailbox.messages), len(messages))
            for found, (message, unique_id) in zip(mailbox.messages, messages, strict=True):
                stored = await read_all(await mailbox.open(found))
                self._case.assertEqual(_lines(stored), _lines(message))
                self._case.assertEqual(found.octets, naive_octets(message))
                if unique_id is not None:
                    self._case.assertEqual(found.uid, unique_id)
        finally:
            await mailbox.release()

    async def test_new_mail_interface(self) -> None:
        """The store provides IFinalDelivery."""
        verifyObject(IFinalDelivery, await self._make_store())

    async def test_new_mail(self) -> None:
        """Messages have the octets and the order of their delivery, after a restart as well."""
        store = await self._make_store()
        messages: list[tuple[bytes, bytes | None]] = []
        for message in MESSAGES:
            messages.append((message, await self._deliver(store, message)))
        await self._check(store, messages)
        await self._check(self.restarted(store), messages)

    async def test_new_mail_equal(self) -> None:
        """Of equal messages each is there, with a unique-id of its own."""
        store = await self._make_store()
        messages = [(MESSAGES[0], await self._deliver(store, MESSAGES[0])) for _ in range(3)]
        await self._check(store, messages)

    async def test_new_mail_in_session(self) -> None:
        """A session does not keep mail from being delivered; the next one shows it."""
        store = await self._make_store()
        first = MESSAGES[0], await self._deliver(store, MESSAGES[0])
        mailbox: Any = await store.open_maildrop(_USER)
        second = MESSAGES[1], await self._deliver(self.restarted(store), MESSAGES[1])
        self._case.assertEqual(len(mailbox.messages), 1)
        await mailbox.release()
        await self._check(store, [first, second])
        mailbox = await store.open_maildrop(_USER)
        await mailbox.remove(list(mailbox.messages)[:1])
        third = MESSAGES[2], await self._deliver(store, MESSAGES[2])
        await mailbox.release()
        await self._check(store, [second, third])

    async def test_has_maildrop(self) -> None:
        """A user has a mailbox after the first delivery at the latest."""
        store = await self._make_store()
        await self._deliver(store, MESSAGES[0])
        self._case.assertIs(await store.has_maildrop(_USER, NO_SETTINGS), True)
        self._case.assertIs(await store.has_maildrop(b"nobody-else", NO_SETTINGS), False)


def _lines(message: bytes) -> list[bytes]:
    """Return the lines of a message as clients see them: the last one has a line end."""
    lines = message.replace(b"\r\n", b"\n").split(b"\n")
    return lines[:-1] if lines[-1] == b"" else lines
