"""Tests of popserv.database.config."""

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from popserv.database.config import KEYS, read_config
from popserv.runtime.config_files import FileError

CONNINFO = "conninfo = 'host=db1,db2 dbname=mail password=secret'\n"


class ConfigTests(SynchronousTestCase):
    """The file of ``--store sql:FILE``."""

    def read(self, text, mode=0o600):
        """Return the configuration of this text."""
        self.path = Path(self.mktemp()).absolute()
        self.path.write_text(text)
        self.path.chmod(mode)
        return read_config(os.path.relpath(self.path))

    def problem(self, text, mode=0o600):
        """Return the message about this text, behind the name of the file."""
        message = str(self.assertRaises(FileError, self.read, text, mode))
        return message.partition(str(self.path))[2]

    def test_defaults(self):
        """Only conninfo is needed; the limits leave time for a second try."""
        config = self.read(CONNINFO)
        self.assertEqual(
            dict(config.parameters),
            {
                "application_name": "popserv",
                "client_encoding": "UTF8",
                "connect_timeout": 2,
                "dbname": "mail",
                "host": "db1,db2",
                "keepalives_count": 5,
                "keepalives_idle": 10,
                "keepalives_interval": 10,
                "options": "-c lock_timeout=500 -c statement_timeout=5000",
                "password": "secret",
                "target_session_attrs": "read-write",
                "tcp_user_timeout": 10000,
            },
        )
        self.assertEqual(config.path, str(self.path))
        self.assertTrue(config.prepare)
        self.assertEqual((config.objects_url, config.objects_options), (None, {}))
        self.assertEqual((config.inline, config.grace, config.lease), (8192, 604800, 30))
        self.assertEqual((config.connections, config.patience), (4, 10))
        self.assertNotIn("secret", repr(config))

    def test_values(self):
        """Each key has a value, and what conninfo has goes before the defaults."""
        config = self.read(
            "conninfo = 'postgresql://h/db?connect_timeout=5&options=-c%20lock_timeout%3D9'\n"
            "connections = 2\ninline = 0\ngrace = 86400\nlease = 60\npatience = 4\n"
            "[objects]\nurl = 's3://bucket/prefix'\nregion = 'eu'\nsecret_access_key = 'hidden'\n"
        )
        self.assertEqual(config.parameters["connect_timeout"], "5")
        self.assertEqual(
            config.parameters["options"], "-c lock_timeout=9 -c statement_timeout=2000"
        )
        self.assertEqual(config.parameters["tcp_user_timeout"], 4000)
        self.assertEqual(config.objects_url, "s3://bucket/prefix")
        self.assertEqual(config.objects_options, {"region": "eu", "secret_access_key": "hidden"})
        self.assertEqual((config.inline, config.grace, config.lease), (0, 86400, 60))
        self.assertEqual((config.connections, config.patience), (2, 4))
        self.assertNotIn("hidden", repr(config))

    def test_pooler(self):
        """Behind a pooler a session has no settings of its own."""
        config = self.read(CONNINFO + "prepare = false\n")
        self.assertFalse(config.prepare)
        self.assertNotIn("options", config.parameters)

    def test_errors(self):
        """An error names the file, the key and the remedy, and never the password."""
        for text, problem in (
            ("", ": conninfo: is missing"),
            ("conninfo = 'secret'", ": conninfo: is not a conninfo or URL of PostgreSQL"),
            ("conninfo = 'connect_timeout=x'", ": conninfo: is not a conninfo"),
            (CONNINFO + "table = 1", ": table: unknown key; the keys are " + ", ".join(KEYS)),
            (CONNINFO + "inline = -1", ": inline: must be a whole number from 0 to 1048576"),
            (CONNINFO + "grace = 0", ": grace: must be a whole number from 1 to 31622400"),
            (CONNINFO + "connections = 1", ": connections: must be a whole number from 2 to 100"),
            (CONNINFO + "patience = 1", ": patience: must be a whole number from 2 to 300"),
            (CONNINFO + "lease = 2", ": lease: must be a whole number from 3 to 3600"),
            (CONNINFO + "[objects]\nregion = 'eu'", ": objects.url: is missing; set it"),
        ):
            with self.subTest(text):
                found = self.problem(text)
                self.assertTrue(found.startswith(problem), found)
                self.assertNotIn("secret", found)
        self.assertIn("is accessible to users other", self.problem(CONNINFO, 0o644))
        message = str(self.assertRaises(FileError, read_config, ""))
        self.assertEqual(message, "--store sql requires a file name; use --store sql:FILE")
