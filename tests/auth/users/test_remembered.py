"""Tests of popserv.auth.users.remembered."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from popserv.auth.users.remembered import RememberedPasswords


class RememberedPasswordsTests(SynchronousTestCase):
    """What is remembered, and for how long."""

    def setUp(self):
        """Create one on a clock, for two passwords and 30 seconds."""
        self.clock = Clock()
        self.remembered = RememberedPasswords(30, max_entries=2, now=self.clock.seconds)

    def add(self, key, password, said="yes"):
        """Remember a password that was verified at once."""
        self.remembered.add(key, password, said, self.remembered.begin())

    def test_found(self):
        """What was said about a password is found again, for its key and this password only."""
        find = self.remembered.find
        self.assertIsNone(find(b"ann", b"secret"))
        self.add(b"ann", b"secret")
        self.assertEqual(find(b"ann", b"secret"), "yes")
        for key, password in (
            (b"ann", b"secret2"),
            (b"ann", b""),
            (b"bob", b"secret"),
            (b"anns", b"ecret"),
            (b"", b""),
        ):
            self.assertIsNone(find(key, password))

    def test_expires(self):
        """It is found for some seconds, from the moment of asking; no use extends them."""
        begun = self.remembered.begin()
        self.clock.advance(10)
        self.remembered.add(b"ann", b"secret", "yes", begun)
        self.clock.advance(19)
        self.assertEqual(self.remembered.find(b"ann", b"secret"), "yes")
        self.clock.advance(1)
        self.assertIsNone(self.remembered.find(b"ann", b"secret"))

    def test_seconds(self):
        """The seconds can be changed; with 0, or after an answer that took longer, none is kept."""
        self.add(b"ann", b"secret")
        self.clock.advance(30)
        self.remembered.seconds = 31
        self.assertEqual(self.remembered.find(b"ann", b"secret"), "yes")
        begun = self.remembered.begin()
        self.clock.advance(31)
        self.remembered.add(b"bob", b"secret", "yes", begun)
        self.remembered.seconds = 0
        self.add(b"carl", b"secret")
        self.assertEqual(self.remembered.sizes(), {"passwords": 1})
        self.assertIsNone(self.remembered.find(b"carl", b"secret"))

    def test_changed(self):
        """A new password for a key replaces the old one."""
        self.add(b"ann", b"old")
        self.add(b"ann", b"new")
        self.assertIsNone(self.remembered.find(b"ann", b"old"))
        self.assertEqual(self.remembered.find(b"ann", b"new"), "yes")

    def test_clear(self):
        """Nothing is found after clear, not even what was being asked then."""
        self.add(b"ann", b"secret")
        begun = self.remembered.begin()
        self.remembered.clear()
        self.remembered.add(b"bob", b"secret", "yes", begun)
        self.assertEqual(self.remembered.sizes(), {"passwords": 0})

    def test_evicted(self):
        """If there are too many, the oldest is evicted; those that are over are evicted, too."""
        keys = (b"ann", b"bob", b"carl")
        for key in (b"ann", b"bob", b"ann", b"carl"):
            self.add(key, b"secret")
        found = [key for key in keys if self.remembered.find(key, b"secret")]
        self.assertEqual(found, [b"ann", b"carl"])
        self.clock.advance(30)
        self.add(b"bob", b"secret")
        self.assertEqual(self.remembered.sizes(), {"passwords": 1})

    def test_no_password(self):
        """Neither keys nor passwords are kept, and the digests depend on a random key."""
        other = RememberedPasswords(30)
        for each in (self.remembered, other):
            each.add(b"{PLAIN}tanstaaf", b"tanstaaf", True, each.begin())
        self.assertNotIn("tanstaaf", repr(vars(self.remembered)))
        self.assertNotEqual(list(self.remembered._entries), list(other._entries))
