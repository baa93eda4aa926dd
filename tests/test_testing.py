"""Tests of popserv.testing."""

from twisted.trial.unittest import TestCase

from popserv.maildrops.memory import MemoryMaildrops
from popserv.testing import SAMPLE_MESSAGES, MailboxContract, naive_octets


class MinimalContractTests(MailboxContract, TestCase):
    """The contract needs make_factory only, which may return an awaitable."""

    def make_factory(self, messages):
        """Return an awaitable of a memory store."""

        async def make():
            store = MemoryMaildrops()
            for user, texts in messages.items():
                for text in texts:
                    store.deliver(user, text)
            return store

        return make()


class NaiveOctetsTests(TestCase):
    """The oracle counts the octets of the wire form."""

    def test_octets(self):
        """Each line counts with CRLF; a lone CR counts as data."""
        octets = [24, 23, 33, 30, 36, 24, 25, 14, 16, 0]
        self.assertEqual([naive_octets(message) for message in SAMPLE_MESSAGES[:10]], octets)
