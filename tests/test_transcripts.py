"""Plays every transcript in memory and over a socket, on each store, and in packets of any size."""

from unittest.mock import patch

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from popserv.server.protocol import POP3Server
from tests.transcripts import (
    TRANSCRIPTS,
    MemoryPeer,
    Settings,
    SocketPeer,
    maildir_store,
    make_factory,
    memory_store,
    play,
    run_now,
)

MESSAGES_LEFT = {
    "rfc1725_section_9": 0,
    "rfc1460_section_9": 0,
    "rfc1225_example": 0,
    "pop_revised_example": 0,
    "deletion": 1,
    "pipelined": 1,
    "client_gmail": 0,
    "client_outlook": 1,
    "client_thunderbird": 1,
    "languages": 1,
}
"""How many messages a transcript leaves, if it removes some."""


class TranscriptTests(TestCase):
    """The server's replies depend on the client's lines only."""

    async def _check_maildrop(self, store, path):
        """Check how many messages the transcript has left, and that the maildrop is not locked."""
        settings = Settings(path)
        mailbox = await store.open_maildrop(settings.user)
        left = MESSAGES_LEFT.get(path.stem, len(settings.messages))
        self.assertEqual(len(mailbox.messages), left, path.name)
        await mailbox.release()

    async def test_memory(self):
        """In memory: a scene, one octet or seven octets a packet."""
        for path in TRANSCRIPTS:
            for size in (None, 1, 7):
                settings = Settings(path)
                store = memory_store(settings.messages, settings.downgrader)
                peer = MemoryPeer(make_factory(store, self.mktemp(), **settings.server))
                await play(self, path, peer, size)
                await self._check_maildrop(store, path)

    async def test_maildir(self):
        """In memory, with Maildirs."""
        for path in TRANSCRIPTS:
            settings = Settings(path)
            downgrader = settings.downgrader
            store = maildir_store(
                settings.messages, self.mktemp(), downgrader=downgrader, run=run_now
            )
            factory = make_factory(store, self.mktemp(), **settings.server)
            await play(self, path, MemoryPeer(factory))
            await self._check_maildrop(store, path)

    @patch.object(POP3Server, "FAILED_LOGIN_DELAY", 0.01)
    async def test_socket(self):
        """Over a socket, with Maildirs and threads."""
        for path in TRANSCRIPTS:
            settings = Settings(path)
            downgrader = settings.downgrader
            store = maildir_store(settings.messages, self.mktemp(), downgrader=downgrader)
            factory = make_factory(store, self.mktemp(), **settings.server)
            port = reactor.listenTCP(0, factory, interface="127.0.0.1")
            peer = await SocketPeer.connect(port.getHost().port)
            try:
                await play(self, path, peer)
            finally:
                await peer.lose()
                await port.stopListening()
            await self._check_maildrop(store, path)
