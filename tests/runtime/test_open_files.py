"""Tests of popserv.runtime.open_files."""

from twisted.trial.unittest import SynchronousTestCase

from popserv.runtime.open_files import MAX_CONNECTIONS, connections_for, files_for


class OpenFilesTests(SynchronousTestCase):
    """Connections, and the files that they need."""

    def test_connections(self):
        """There is always one connection, and a greatest number."""
        self.assertEqual(connections_for(0), 1)
        self.assertEqual(connections_for(1024), 231)
        self.assertEqual(connections_for(1 << 20), MAX_CONNECTIONS)
        self.assertEqual(MAX_CONNECTIONS, 10_000)

    def test_files(self):
        """The connections that are allowed have the files that they need."""
        for files in (104, 1024, 4096, 40_100):
            self.assertLessEqual(files_for(connections_for(files)), files)
        self.assertEqual([files_for(connections) for connections in (0, 1, 10)], [100, 104, 140])
