"""cache: which indexes are kept, and which are evicted."""

import os

from popserv.maildrops.maildir.listing.cache import MaildirIndexCache
from popserv.maildrops.maildir.listing.index import empty_index
from popserv.maildrops.maildir.store import MaildirMaildrops
from popserv.testing import SAMPLE_MESSAGES
from tests.maildrops.maildir.harness import MaildirCase, run_inline


class CacheTests(MaildirCase):
    """The indexes of the maildrops used last are kept, up to a number of messages."""

    def test_least_recently_used(self):
        """The least recently used maildrops are evicted when there are too many messages."""
        for user in (b"bob", b"cid"):
            self.make_maildir(user)
        for user in (b"ann", b"bob", b"cid"):
            self.put(b"new/1." + user, user=user)
        self.maildrops = MaildirMaildrops(self.root, cache_messages=2 * 11, run=run_inline)
        logins = (b"ann", b"bob", b"ann", b"cid", b"ann")
        self.assertEqual(self.files_read_at_logins(*logins), [b"1.ann", b"1.bob", b"1.cid"])
        self.assertEqual(self.files_read_at_logins(b"bob", b"ann"), [b"1.bob"])

    def test_shrinking(self):
        """Messages that were removed no longer count."""
        self.make_maildir(b"bob")
        self.put(b"new/1.bob", user=b"bob")
        self.put(b"new/1.a")
        self.put(b"new/2.a")
        self.maildrops = MaildirMaildrops(self.root, cache_messages=2 * 11 + 1, run=run_inline)
        self.assertEqual(len(self.files_read_at_logins(b"ann")), 2)
        os.unlink(self.path_of(b"new/1.a"))
        self.assertEqual(self.files_read_at_logins(b"ann", b"bob", b"ann", b"bob"), [b"1.bob"])

    def test_too_large(self):
        """A maildrop larger than the cache is not cached, and evicts no other."""
        self.make_maildir(b"bob")
        self.put(b"new/1.bob", user=b"bob")
        for n in range(3):
            self.put(b"new/%d.a" % n)
        self.maildrops = MaildirMaildrops(self.root, cache_messages=12, run=run_inline)
        names = self.files_read_at_logins(b"bob", b"ann", b"bob", b"ann", b"bob")
        self.assertEqual(names.count(b"1.bob"), 1)
        self.assertEqual(names.count(b"0.a"), 2)

    def test_no_cache(self):
        """With a cache of 0 messages each login counts all messages, and right."""
        self.maildrops = MaildirMaildrops(self.root, cache_messages=0, run=run_inline)
        for n, message in enumerate(SAMPLE_MESSAGES):
            self.put(b"new/%d.x" % n, message)
        for _ in range(2):
            self.assertEqual(len(self.files_read_at_logins(b"ann")), len(SAMPLE_MESSAGES))
            self.assertEqual(self.read_in_session(), SAMPLE_MESSAGES)

    def test_distrusted(self):
        """An index that was wrong is evicted, and its size file not read until it is removed."""
        cache = MaildirIndexCache(100)
        for user in (b"ann", b"bob"):
            cache.put(user, empty_index(None))
        cache.invalidate(b"ann")
        self.assertEqual([cache.get(user) is None for user in (b"ann", b"bob")], [True, False])
        trusted = [cache.is_size_file_trusted(user) for user in (b"ann", b"bob")]
        self.assertEqual(trusted, [False, True])
        cache.trust_size_file(b"ann")
        self.assertTrue(cache.is_size_file_trusted(b"ann"))

    def test_without_messages(self):
        """A maildrop without messages counts as ten messages."""
        cache = MaildirIndexCache(25)
        users = (b"bob", b"cid", b"dan")
        for user in users:
            cache.put(user, empty_index(None))
        self.assertEqual([user for user in users if cache.get(user)], [b"cid", b"dan"])
