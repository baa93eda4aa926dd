"""Tests of popserv.runtime.config_files: fingerprints and permissions of configuration files."""

import os

from twisted.trial.unittest import SynchronousTestCase

from popserv.runtime.config_files import FileError, check_private, fingerprint


class FingerprintTests(SynchronousTestCase):
    """fingerprint."""

    def test_changes(self):
        """A new size, modification time, mode or inode gives another fingerprint."""
        path = self.mktemp()
        seen = set()

        def record():
            seen.add(fingerprint(os.stat(path)))

        with open(path, "wb") as file:
            record()
            file.write(b"ann")
        record()
        os.utime(path, ns=(0, 0))
        record()
        os.chmod(path, 0o600)
        record()
        os.rename(path, path + "~")
        with open(path, "wb") as file:
            file.write(b"bob")
        os.utime(path, ns=(0, 0))
        os.chmod(path, 0o600)
        record()
        self.assertEqual(len(seen), 5)
        record()
        self.assertEqual(len(seen), 5)


class CheckPrivateTests(SynchronousTestCase):
    """check_private."""

    def test_modes(self):
        """Owner and group may have any permission on the file, other users none."""
        for mode in (0o100600, 0o100640, 0o100660, 0o100400, 0o100000):
            check_private("users", mode)
        for mode in (0o100601, 0o100602, 0o100604, 0o100777):
            error = self.assertRaises(FileError, check_private, "users", mode)
            self.assertIn("chmod o= users", str(error))
