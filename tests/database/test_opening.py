"""Tests of popserv.database.opening: a process has one database for a file."""

from pathlib import Path

from twisted.trial.unittest import TestCase

from popserv.database.opening import open_database


class OpeningTests(TestCase):
    """open_database."""

    def write(self, text):
        """Write the file."""
        self.path.write_text(text)
        self.path.chmod(0o600)

    def setUp(self):
        """Write a file."""
        self.path = Path(self.mktemp()).absolute()
        self.write("conninfo = 'host=/nowhere'\n")

    async def test_one(self):
        """It is the same one until it is closed."""
        database = open_database(str(self.path))
        self.assertIs(open_database(str(self.path)), database)
        await database.close()
        other = open_database(str(self.path))
        self.assertIsNot(other, database)
        self.assertIs(open_database(str(self.path)), other)

    def test_changed(self):
        """It is another one for another file, or if the file has changed."""
        database = open_database(str(self.path))
        self.write("conninfo = 'host=/nowhere'\nlease = 31\n")
        changed = open_database(str(self.path))
        self.assertIsNot(changed, database)
        self.assertEqual(changed.config.lease, 31)
        self.path = Path(self.mktemp()).absolute()
        self.write("conninfo = 'host=/nowhere'\nlease = 31\n")
        self.assertIsNot(open_database(str(self.path)), changed)
