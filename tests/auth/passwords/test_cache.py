"""Tests of popserv.auth.passwords.cache."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from popserv.auth.passwords.cache import VerifiedPasswordCache


class VerifiedPasswordCacheTests(SynchronousTestCase):
    """VerifiedPasswordCache."""

    def setUp(self):
        """Make a cache of three entries with a lifetime of ten seconds."""
        self.clock = Clock()
        self.cache = VerifiedPasswordCache(lifetime=10, max_entries=3, now=self.clock.seconds)

    def test_pair(self):
        """An entry is for one password and one password field."""
        self.cache.add(b"{X}a", b"pw")
        self.assertTrue(self.cache.contains(b"{X}a", b"pw"))
        for field, password in [
            (b"{X}a", b"no"),
            (b"{X}b", b"pw"),
            (b"{X}ap", b"w"),
            (b"{X}", b"apw"),
            (b"", b""),
        ]:
            self.assertFalse(self.cache.contains(field, password))

    def test_time(self):
        """An entry expires a lifetime after it was added, even if it is used meanwhile."""
        self.cache.add(b"a", b"pw")
        self.clock.advance(9)
        self.assertTrue(self.cache.contains(b"a", b"pw"))
        self.clock.advance(1)
        self.assertFalse(self.cache.contains(b"a", b"pw"))
        self.cache.add(b"a", b"pw")
        self.assertTrue(self.cache.contains(b"a", b"pw"))

    def test_size(self):
        """If the cache is full, the oldest entry is evicted; expired entries are evicted, too."""
        for name in (b"a", b"b", b"c", b"a", b"d"):
            self.cache.add(name, b"pw")
        cached = [name for name in (b"a", b"b", b"c", b"d") if self.cache.contains(name, b"pw")]
        self.assertEqual(cached, [b"a", b"c", b"d"])
        self.clock.advance(10)
        self.cache.add(b"e", b"pw")
        self.assertEqual(len(self.cache._expiry_times), 1)

    def test_no_secret(self):
        """The cache stores neither fields nor passwords, and its digests depend on a random key."""
        self.cache.add(b"{PLAIN}secret", b"secret")
        other = VerifiedPasswordCache()
        other.add(b"{PLAIN}secret", b"secret")
        self.assertNotIn(b"secret", b"".join(self.cache._expiry_times))
        self.assertNotEqual(list(self.cache._expiry_times), list(other._expiry_times))
