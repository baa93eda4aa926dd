"""Tests of popserv.auth.services.cache."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from popserv.auth.services.cache import RememberedPasswords


class RememberedPasswordsTests(SynchronousTestCase):
    """What is remembered, and for how long."""

    def setUp(self):
        """Create one on a clock."""
        self.clock = Clock()
        self.remembered = RememberedPasswords(max_entries=2, now=self.clock.seconds)

    def add(self, key, password, said="yes"):
        """Remember a password that was verified at once."""
        self.remembered.add(key, password, said, self.remembered.begin())

    def find(self, key, password, seconds=30):
        """Return what was said."""
        return self.remembered.find(key, password, seconds)

    def test_found(self):
        """What was said about a password is found again, for its key and this password only."""
        self.assertIsNone(self.find("ann", b"secret"))
        self.add("ann", b"secret")
        self.assertEqual(self.find("ann", b"secret"), "yes")
        for key, password in (("ann", b"secret2"), ("ann", b""), ("bob", b"secret")):
            self.assertIsNone(self.find(key, password))

    def test_expires(self):
        """It is found for some seconds, from the moment of asking; no use extends them."""
        begun = self.remembered.begin()
        self.clock.advance(10)
        self.remembered.add("ann", b"secret", "yes", begun)
        self.clock.advance(19)
        self.assertEqual(self.find("ann", b"secret"), "yes")
        self.clock.advance(1)
        self.assertIsNone(self.find("ann", b"secret"))
        self.assertEqual(self.find("ann", b"secret", 31), "yes")
        self.assertIsNone(self.find("ann", b"secret", 0))

    def test_changed(self):
        """A new password of a user replaces the old one."""
        self.add("ann", b"old")
        self.add("ann", b"new")
        self.assertIsNone(self.find("ann", b"old"))
        self.assertEqual(self.find("ann", b"new"), "yes")

    def test_clear(self):
        """Nothing is found after clear, not even what was being asked then."""
        self.add("ann", b"secret")
        begun = self.remembered.begin()
        self.remembered.clear()
        self.remembered.add("bob", b"secret", "yes", begun)
        self.assertEqual([self.find(key, b"secret") for key in ("ann", "bob")], [None, None])

    def test_evicted(self):
        """The oldest is evicted."""
        for key in ("ann", "bob", "ann", "carl"):
            self.add(key, b"secret")
        found = [key for key in ("ann", "bob", "carl") if self.find(key, b"secret")]
        self.assertEqual(found, ["ann", "carl"])

    def test_no_password(self):
        """No password is kept."""
        self.add("ann", b"tanstaaf")
        self.assertNotIn("tanstaaf", repr(vars(self.remembered)))
