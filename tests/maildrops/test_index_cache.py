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


class SizesTests(SynchronousTestCase):
    """What is cached is counted."""

    def test_sizes(self):
        """Maildrops and their messages are counted."""
        cache = IndexCache(100)
        self.assertEqual(cache.sizes(), {"maildrops": 0, "messages": 0})
        for name, count in ((b"ann", 3), (b"bob", 0)):
            cache.put(name, SimpleNamespace(messages=[None] * count))
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
