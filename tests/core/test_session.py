"""Tests of popserv.core.session."""

from functools import partial
from types import SimpleNamespace

from twisted.trial.unittest import TestCase

from popserv.core.session import Session, State, client_is_connected, printable_name
from popserv.core.user_settings import UserSettings
from popserv.errors import BadCommand, LoginFailed, ReadOnlyMaildrop, RemovalFailed
from popserv.maildrops.memory import MemoryMaildrops


class SessionTests(TestCase):
    """The states of a session, and its lock (RFC 1725 sections 3 to 6)."""

    def setUp(self):
        """Store two messages for ann, and make a session that can log in as ann."""
        self.store = MemoryMaildrops()
        self.store.deliver(b"ann", b"1\n")
        self.store.deliver(b"ann", b"2\n")
        self.released = 0
        self.session = Session(self)

    def supports(self, credentials):
        """Support all credentials."""
        return True

    def relayed_mechanisms(self):
        """Relay none."""
        return {}

    async def authenticate(self, credentials):
        """Accept ann's credentials."""
        if credentials != "ann's":
            raise LoginFailed
        mailbox = await self.store.open_maildrop(b"ann")

        async def release():
            self.released += 1
            await mailbox.release()

        return mailbox, release

    async def test_states(self):
        """A login leads to TRANSACTION, and an update to UPDATE, where marked mail is removed."""
        self.assertIs(self.session.state, State.AUTHORIZATION)
        await self.session.login(b"ann", "ann's")
        self.assertIs(self.session.state, State.TRANSACTION)
        self.assertEqual(self.session.maildrop.count, 2)
        self.session.maildrop.mark(1)
        await self.session.update()
        self.assertIs(self.session.state, State.UPDATE)
        self.assertEqual(list(self.store.stored[b"ann"].values()), [b"2\n"])
        self.assertEqual((self.released, self.session.removed_count), (1, 1))

    async def test_read_only(self):
        """A mailbox that is read-only keeps its messages in UPDATE."""
        store, opened = self.store, self.store.open_configured
        self.store = SimpleNamespace(
            open_maildrop=partial(opened, settings=UserSettings(read_only=True))
        )
        await self.session.login(b"ann", "ann's")
        self.assertRaises(ReadOnlyMaildrop, self.session.maildrop.mark, 1)
        await self.session.update()
        self.assertEqual(len(store.stored[b"ann"]), 2)

    async def test_logged_in(self):
        """The connection is told when a login has succeeded, with the user's name known."""
        told = []
        self.session = Session(
            self, logged_in=lambda: told.append((self.session.state, self.session.name))
        )
        with self.assertRaises(LoginFailed):
            await self.session.login(b"ann", "bob's")
        self.assertEqual(told, [])
        await self.session.login(b"ann", "ann's")
        self.assertEqual(told, [(State.TRANSACTION, b"ann")])
        await self.session.end()

    async def test_retrieved(self):
        """Messages that were retrieved are counted, each time, with their octets."""
        await self.session.login(b"ann", "ann's")
        for number in (1, 2, 2):
            self.session.record_retrieval(self.session.maildrop[number])
        self.assertEqual((self.session.retrieved_count, self.session.retrieved_octets), (3, 9))
        await self.session.end()

    async def test_failed_login(self):
        """A failed login changes no state and acquires no lock."""
        with self.assertRaises(LoginFailed):
            await self.session.login(b"ann", "bob's")
        self.assertIs(self.session.state, State.AUTHORIZATION)
        await self.session.end()
        self.assertEqual(self.released, 0)

    async def test_end(self):
        """A session that ends without UPDATE removes nothing, and releases its lock once."""
        await self.session.login(b"ann", "ann's")
        self.session.maildrop.mark(1)
        await self.session.end()
        await self.session.end()
        self.assertEqual((self.released, len(self.store.stored[b"ann"])), (1, 2))

    async def test_defaults(self):
        """A session without options sends no challenges and has no capabilities."""
        with self.assertRaises(BadCommand):
            await self.session.send_challenge(b"")
        self.assertEqual(self.session.capabilities(), ())
        self.assertEqual(self.session.host, b"localhost")
        self.assertTrue(self.session.allows_login and self.session.allows_cleartext)
        self.assertFalse(self.session.can_start_tls)

    def test_connected(self):
        """A client counts as connected where nothing is known of its connection."""
        self.assertTrue(client_is_connected.get()())

    def test_printable_name(self):
        """A name of up to 40 printable characters of ASCII can be part of a reply."""
        for name in (b"ann", b"a b", b"x" * 40):
            self.assertEqual(printable_name(name), name.decode())
        for name in (None, b"", b"x" * 41, b"j\xf6rg", b"a\tb"):
            self.assertEqual(printable_name(name), "")

    async def test_failed_removal(self):
        """If a removal fails, the lock is released and the error is raised."""
        await self.session.login(b"ann", "ann's")
        self.session.maildrop.mark(1)
        self.session.maildrop.mark(2)

        async def remove(messages):
            raise RemovalFailed(1)

        self.session.mailbox.remove = remove
        with self.assertRaises(RemovalFailed):
            await self.session.update()
        self.assertEqual((self.released, self.session.removed_count), (1, 1))
