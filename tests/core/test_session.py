"""The three states, and the lock that is given back once."""

from twisted.trial.unittest import TestCase

from popserv.core.session import Session, State
from popserv.errors import BadCommand, LoginFailed, RemovalFailed
from popserv.maildrops.memory import MemoryMaildrops


class SessionTests(TestCase):
    """RFC 1725 sections 3 to 6."""

    def setUp(self):
        """Two messages for ann, and a session that may log in as her."""
        self.store = MemoryMaildrops()
        self.store.deliver(b"ann", b"1\n")
        self.store.deliver(b"ann", b"2\n")
        self.released = 0
        self.session = Session(self)

    def supports(self, credentials):
        """Offer what is asked for."""
        return True

    async def authenticate(self, credentials):
        """Let ann in."""
        if credentials != "ann's":
            raise LoginFailed
        mailbox = await self.store.open_maildrop(b"ann")

        async def release():
            self.released += 1
            await mailbox.release()

        return mailbox, release

    async def test_states(self):
        """AUTHORIZATION, by login TRANSACTION, by update UPDATE."""
        self.assertIs(self.session.state, State.AUTHORIZATION)
        await self.session.login(b"ann", "ann's")
        self.assertIs(self.session.state, State.TRANSACTION)
        self.assertEqual(self.session.maildrop.count, 2)
        self.session.maildrop.mark(1)
        await self.session.update()
        self.assertIs(self.session.state, State.UPDATE)
        self.assertEqual(list(self.store.stored[b"ann"].values()), [b"2\n"])
        self.assertEqual((self.released, self.session.removed), (1, 1))

    async def test_failed_login(self):
        """A failed login leaves the state and takes nothing."""
        with self.assertRaises(LoginFailed):
            await self.session.login(b"ann", "bob's")
        self.assertIs(self.session.state, State.AUTHORIZATION)
        await self.session.end()
        self.assertEqual(self.released, 0)

    async def test_end(self):
        """However often a session ends, it removes nothing and gives the lock up once."""
        await self.session.login(b"ann", "ann's")
        self.session.maildrop.mark(1)
        await self.session.end()
        await self.session.end()
        self.assertEqual((self.released, len(self.store.stored[b"ann"])), (1, 2))

    async def test_no_dialogue(self):
        """A session that was given no way to ask its client asks nothing."""
        with self.assertRaises(BadCommand):
            await self.session.send_challenge(b"")
        self.assertEqual(self.session.capabilities(), ())

    async def test_failed_removal(self):
        """The lock is given up even if the removal fails, and the failure is told."""
        await self.session.login(b"ann", "ann's")
        self.session.maildrop.mark(1)
        self.session.maildrop.mark(2)

        async def remove(messages):
            raise RemovalFailed(1)

        self.session.mailbox.remove = remove
        with self.assertRaises(RemovalFailed):
            await self.session.update()
        self.assertEqual((self.released, self.session.removed), (1, 1))
