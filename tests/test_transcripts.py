"""Every transcript, in memory and over a socket, on every store, in packets of every kind."""

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

LEFT = {
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
"""How many messages a transcript leaves, where it is not both."""


class TranscriptTests(TestCase):
    """What the server says is a function of what was said, and of nothing else."""

    async def _left(self, store, path):
        """Check what is in the maildrop after the transcript, and that it is not locked."""
        setting = Settings(path)
        mailbox = await store.open_maildrop(setting.user)
        left = LEFT.get(path.stem, len(setting.messages))
        self.assertEqual(len(mailbox.messages), left, path.name)
        await mailbox.release()

    async def test_memory(self):
        """In memory; scene by scene, and one octet at a time."""
        for path in TRANSCRIPTS:
            for size in (None, 1, 7):
                setting = Settings(path)
                store = memory_store(setting.messages)
                peer = MemoryPeer(make_factory(store, self.mktemp(), **setting.server))
                await play(self, path, peer, size)
                await self._left(store, path)

    async def test_maildir(self):
        """On Maildirs."""
        for path in TRANSCRIPTS:
            setting = Settings(path)
            store = maildir_store(setting.messages, self.mktemp(), run=run_now)
            factory = make_factory(store, self.mktemp(), **setting.server)
            await play(self, path, MemoryPeer(factory))
            await self._left(store, path)

    @patch.object(POP3Server, "FAILED_LOGIN_DELAY", 0.01)
    async def test_socket(self):
        """Over a socket, on Maildirs, with threads."""
        for path in TRANSCRIPTS:
            setting = Settings(path)
            store = maildir_store(setting.messages, self.mktemp())
            factory = make_factory(store, self.mktemp(), **setting.server)
            port = reactor.listenTCP(0, factory, interface="127.0.0.1")
            peer = await SocketPeer.connect(port.getHost().port)
            try:
                await play(self, path, peer)
            finally:
                await peer.lose()
                await port.stopListening()
            await self._left(store, path)
