"""popserv.maildrops.sql.ids: the ids of messages."""

import time

from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.sql.ids import new_id, unique_id_of


class IdTests(SynchronousTestCase):
    """Ids are UUIDs of version 7 (RFC 9562 section 5.7)."""

    def test_form(self):
        """An id has the time, the version, the variant, and is another one each time."""
        before = time.time_ns() // 1_000_000
        ids = [new_id() for _ in range(1000)]
        after = time.time_ns() // 1_000_000
        self.assertEqual(len(set(ids)), 1000)
        for each in ids:
            self.assertEqual((each.version, each.variant), (7, "specified in RFC 4122"))
            self.assertTrue(before <= each.int >> 80 <= after)
        # All 74 other bits are random.
        together = 0
        for each in ids:
            together |= each.int
        self.assertEqual(together & (1 << 76) - 1, (1 << 76) - 1 & ~(1 << 62))

    def test_unique_id(self):
        """The unique-id has 32 hexadecimal digits."""
        self.assertRegex(unique_id_of(new_id()), rb"^[0-9a-f]{32}$")
