"""Tests of popserv.core.connection_details."""

from twisted.trial.unittest import SynchronousTestCase

from popserv.core.connection_details import ConnectionDetails, connection_details


class ConnectionDetailsTests(SynchronousTestCase):
    """What a checker can find out about a connection."""

    def test_address(self):
        """The address is that of the client, who may have none."""
        details = ConnectionDetails(("192.0.2.1", 4711), ("198.51.100.2", 110))
        self.assertEqual(details.address, "192.0.2.1")
        self.assertIsNone(ConnectionDetails(local=("198.51.100.2", 110)).address)

    def test_private(self):
        """Nobody can eavesdrop on TLS, nor on a connection from this machine."""
        self.assertIs(ConnectionDetails(uses_tls=True).is_private, True)
        self.assertIs(ConnectionDetails(is_local=True).is_private, True)
        self.assertIs(ConnectionDetails().is_private, False)

    def test_unknown(self):
        """Without a connection nothing is known, and it does not count as private."""
        self.assertEqual(connection_details.get()(), (None, None, False, False))
