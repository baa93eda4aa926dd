"""Tests of popserv.maildrops.settings."""

from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.settings import StoreSettings
from popserv.messages.downgrade.downgrader import Downgrader


class StoreSettingsTests(SynchronousTestCase):
    """Settings that a store may be unable to support."""

    def test_unsupported(self):
        """A setting that the store does not support is rejected with the name of its option."""
        with self.assertRaises(ValueError) as rejected:
            StoreSettings(0, downgrader=Downgrader).reject_unsupported()
        message = str(rejected.exception)
        self.assertEqual(message, "this store does not support --utf8; remove --utf8")

    def test_supported(self):
        """A supported setting, one with its default, and one without an option are accepted."""
        self.assertIsNone(StoreSettings(0, downgrader=Downgrader).reject_unsupported("downgrader"))
        self.assertIsNone(StoreSettings(1, processes=2).reject_unsupported())

    def test_processes(self):
        """A store is served by one process, unless it is told of others."""
        self.assertEqual(StoreSettings(1).processes, 1)
