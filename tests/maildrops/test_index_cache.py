"""The cache of indexes, and the sizes of caches."""

import os
from types import SimpleNamespace

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from popserv.auth.passwords.file_checker import PasswdFileChecker
from popserv.interfaces import ICaching
from popserv.maildrops.index_cache import IndexCache
from popserv.maildrops.kinds import make_store
from popserv.maildrops.memory import MemoryMaildrops
from popserv.maildrops.settings import StoreSettings
from popserv.maildrops.wrapping import share_interfaces


def index_of(messages):
    """Return an index with so many messages."""
    return SimpleNamespace(messages=[None] * messages)


class EvictionTests(SynchronousTestCase):
    """A cache of sixty messages, of which a maildrop takes ten beside its own."""

    def setUp(self):
        """Fill it with three maildrops of ten messages."""
        self.cache = IndexCache(60)
        self.indexes = {name: index_of(10) for name in (b"ann", b"bob", b"eve")}
        for name, index in self.indexes.items():
            self.cache.put(name, index)

    def check(self, *names):
        """Check which maildrops are in the cache."""
        cached = [name for name in self.indexes if self.cache.get(name) is self.indexes[name]]
        self.assertEqual(cached, [*names])
        self.assertEqual(self.cache.sizes()["maildrops"], len(names))

    def test_least_recent(self):
        """All that fit in are there; then those that were used least recently make room."""
        self.check(b"ann", b"bob", b"eve")
        self.cache.put(b"ann", self.indexes[b"ann"])
        self.check(b"ann", b"bob", b"eve")
        self.indexes[b"new"] = index_of(0)
        self.cache.put(b"new", self.indexes[b"new"])
        self.check(b"ann", b"eve", b"new")
        self.indexes[b"other"] = index_of(1)
        self.cache.put(b"other", self.indexes[b"other"])
        self.check(b"ann", b"new", b"other")

    def test_replaced(self):
        """Another index of the same maildrop takes the place of the old one."""
        self.indexes[b"bob"] = index_of(10)
        self.cache.put(b"bob", self.indexes[b"bob"])
        self.check(b"ann", b"bob", b"eve")
        self.assertEqual(self.cache.sizes()["messages"], 30)

    def test_large(self):
        """An index that fills the cache evicts all others, and one that is larger evicts none."""
        self.cache.put(b"bob", index_of(51))
        self.check(b"ann", b"eve")
        self.indexes[b"bob"] = index_of(50)
        self.cache.put(b"bob", self.indexes[b"bob"])
        self.check(b"bob")


class SizesTests(SynchronousTestCase):
    """What is cached is counted."""

    def test_sizes(self):
        """Maildrops and their messages are counted."""
        cache = IndexCache(100)
        self.assertEqual(cache.sizes(), {"maildrops": 0, "messages": 0})
        for name, count in ((b"ann", 3), (b"bob", 0)):
            cache.put(name, index_of(count))
        self.assertEqual(cache.sizes(), {"maildrops": 2, "messages": 3})
        cache.evict(b"ann")
        self.assertEqual(cache.sizes(), {"maildrops": 1, "messages": 0})

    def test_stores(self):
        """Every store that has a cache tells its sizes, also one around it."""
        root = self.mktemp()
        os.mkdir(root)
        empty = {"maildrops": 0, "messages": 0}
        for kind in ("maildir", "mh", "mbox"):
            for settings in (
                StoreSettings(10),
                StoreSettings(10, since=60.0),
                *([StoreSettings(10, deleted="keep")] if kind == "maildir" else []),
            ):
                store = make_store(f"{kind}:{root}", settings)
                verifyObject(ICaching, store)
                self.assertEqual(store.cache_sizes(), empty)

    def test_no_cache(self):
        """A store around one without a cache has none either."""
        wrapper = SimpleNamespace()
        share_interfaces(wrapper, MemoryMaildrops())
        self.assertFalse(ICaching.providedBy(wrapper))

    def test_passwords(self):
        """The checker of a users file counts the passwords that it has verified."""
        checker = PasswdFileChecker("nowhere")
        verifyObject(ICaching, checker)
        self.assertEqual(checker.cache_sizes(), {"passwords": 0})
