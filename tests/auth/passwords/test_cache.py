"""What is remembered of passwords that were right."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from popserv.auth.passwords.cache import VerifiedPasswordCache


class VerifiedTests(SynchronousTestCase):
    """VerifiedPasswords."""

    def setUp(self):
        """Remember three logins, for ten seconds."""
        self.clock = Clock()
        self.verified = VerifiedPasswordCache(lifetime=10, max_entries=3, now=self.clock.seconds)

    def test_pair(self):
        """A password is remembered with its field, and with no other."""
        self.verified.add(b"{X}a", b"pw")
        self.assertTrue(self.verified.contains(b"{X}a", b"pw"))
        for field, password in [
            (b"{X}a", b"no"),
            (b"{X}b", b"pw"),
            (b"{X}ap", b"w"),
            (b"{X}", b"apw"),
            (b"", b""),
        ]:
            self.assertFalse(self.verified.contains(field, password))

    def test_time(self):
        """It ends a time after it was verified, however often it was used meanwhile."""
        self.verified.add(b"a", b"pw")
        self.clock.advance(9)
        self.assertTrue(self.verified.contains(b"a", b"pw"))
        self.clock.advance(1)
        self.assertFalse(self.verified.contains(b"a", b"pw"))
        self.verified.add(b"a", b"pw")
        self.assertTrue(self.verified.contains(b"a", b"pw"))

    def test_size(self):
        """Beyond the bound the one goes that was verified first; one that has ended goes, too."""
        for name in (b"a", b"b", b"c", b"a", b"d"):
            self.verified.add(name, b"pw")
        held = [name for name in (b"a", b"b", b"c", b"d") if self.verified.contains(name, b"pw")]
        self.assertEqual(held, [b"a", b"c", b"d"])
        self.clock.advance(10)
        self.verified.add(b"e", b"pw")
        self.assertEqual(len(self.verified._expiry_times), 1)

    def test_no_secret(self):
        """Neither field nor password is kept, and another process would keep other digests."""
        self.verified.add(b"{PLAIN}secret", b"secret")
        other = VerifiedPasswordCache()
        other.add(b"{PLAIN}secret", b"secret")
        self.assertNotIn(b"secret", b"".join(self.verified._expiry_times))
        self.assertNotEqual(list(self.verified._expiry_times), list(other._expiry_times))
