"""Tests of popserv.core.host."""

from uuid import UUID

from twisted.trial.unittest import SynchronousTestCase

from popserv.core.host import Host


class HostTests(SynchronousTestCase):
    """A server among those that share a store."""

    def test_short_id(self):
        """The short ID is the first eight digits of the ID."""
        host = Host(UUID("0123abcd-4567-4890-abcd-ef0123456789"), "a", "1.0", False, 2.0, 1.0)
        self.assertEqual(host.short_id, "0123abcd")
