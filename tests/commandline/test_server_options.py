"""Tests of popserv.commandline.server_options."""

import os

from twisted.trial.unittest import SynchronousTestCase

from popserv.commandline.server_options import read_passwords


class PasswordsTests(SynchronousTestCase):
    """The file with the passwords."""

    def passwords(self, octets):
        """Write a private file; return its path."""
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(octets)
        os.chmod(path, 0o600)
        return path

    def test_passwords(self):
        """A file of passwords has lines with a colon, and is private."""
        path = self.passwords(b"# text\n\nann:se:cret\nbob:\n")
        self.assertEqual(read_passwords(path), {b"ann": b"se:cret", b"bob": b""})
        os.chmod(path, 0o644)
        self.assertIn("chmod o=", str(self.assertRaises(ValueError, read_passwords, path)))
        for line in (b"ann", b":secret"):
            path = self.passwords(b"bob:x\n" + line)
            error = self.assertRaises(ValueError, read_passwords, path)
            self.assertIn("line 2: it is not a name, a colon and a password", str(error))
