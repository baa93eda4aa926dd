"""Tests of popserv.testing.faulty.store."""

from contextlib import contextmanager

from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from popserv.interfaces import IMaildropFactory, IRetrievalRecord
from popserv.testing import Faults, MemoryClient
from popserv.testing.faulty.faults import ActiveFaults
from popserv.testing.faulty.store import FaultyMaildrops
from tests.maildrops.test_memory import MemoryContract
from tests.testing.faulty.harness import LOGIN, FaultyServerTestCase


class FaultyMaildropsTests(MemoryContract, TestCase):
    """Without faults, the store is like any other."""

    def store(self, downgrader):
        """Return a store without faults."""
        return FaultyMaildrops(ActiveFaults(Faults()))

    @contextmanager
    def failing_removal(self, factory, user):
        """Order the removal to fail."""
        factory.faults.set(Faults(fail_removal=True))
        yield
        factory.faults.set(Faults())

    async def test_interfaces(self):
        """The store and its mailboxes provide their interfaces."""
        store = self.make_factory({})
        self.assertTrue(verifyObject(IMaildropFactory, store))
        self.assertTrue(verifyObject(IRetrievalRecord, await store.open_maildrop(b"ann")))


class FaultyStoreTests(FaultyServerTestCase):
    """The faults of the store and of the portal."""

    def test_lock_held(self):
        """With lock_held a right password is answered [IN-USE], and a wrong one [AUTH]."""
        client = self.connect(lock_held=True)
        self.assertIn(b"-ERR [IN-USE]", client.send(LOGIN))
        self.assertIn(b"-ERR [AUTH]", client.send(b"USER ann\r\nPASS wrong\r\n"))
        self.faults.set(Faults())
        self.assertIn(b"+OK ann's", client.send(LOGIN))

    def test_refuse_logins(self):
        """With refuse_logins so many logins are answered [AUTH], and the next ones succeed."""
        client = self.connect(refuse_logins=2)
        for expected in (b"-ERR [AUTH]", b"-ERR [AUTH]", b"+OK ann's maildrop"):
            self.assertIn(expected, client.send(LOGIN))

    def test_fail_logins(self):
        """With fail_logins so many logins are answered [SYS/TEMP], on any connection."""
        client = self.connect(fail_logins=2)
        other = MemoryClient(self.factory)
        self.assertIn(b"-ERR [SYS/TEMP]", client.send(LOGIN))
        self.assertIn(b"-ERR [SYS/TEMP]", other.send(LOGIN))
        self.assertIn(b"+OK ann's maildrop", client.send(LOGIN))

    def test_fail_removal(self):
        """With fail_removal QUIT is answered [SYS/TEMP], and all messages remain."""
        client = self.log_in(fail_removal=True)
        self.assertIn(b"-ERR [SYS/TEMP]", client.send(b"DELE 1\r\nDELE 2\r\nQUIT\r\n"))
        self.assertEqual(len(self.maildrops.stored[b"ann"]), 2)
        client = self.log_in()
        client.send(b"DELE 1\r\nQUIT\r\n")
        self.assertEqual(list(self.maildrops.stored[b"ann"]), [b"m2"])
