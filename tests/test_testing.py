"""What popserv.testing offers to others holds for itself."""

from twisted.trial.unittest import TestCase

from popserv.maildrops.memory import MemoryMaildrops
from popserv.testing import SAMPLE_MESSAGES, MailboxContract, naive_octets


class WithoutBackDoor(MailboxContract, TestCase):
    """A store that nobody else can reach passes the contract, too."""

    def make_factory(self, messages):
        """A memory store, made at once or by and by."""

        async def by_and_by():
            store = MemoryMaildrops()
            for user, texts in messages.items():
                for text in texts:
                    store.deliver(user, text)
            return store

        return by_and_by()


class NaiveTests(TestCase):
    """The oracle is right where a look can tell."""

    def test_octets(self):
        """Every line counts with a CRLF, and a lone CR as itself."""
        counts = [24, 23, 33, 30, 36, 24, 25, 14, 16, 0]
        self.assertEqual([naive_octets(message) for message in SAMPLE_MESSAGES[:10]], counts)
