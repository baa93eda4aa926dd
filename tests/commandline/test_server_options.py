"""Tests of popserv.commandline.server_options."""

import codecs
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
        lines = b"ann:se:cret\nbob:\n"
        for text in (b"# text\n\n" + lines, codecs.BOM_UTF8 + lines):
            path = self.passwords(text)
            self.assertEqual(read_passwords(path), {b"ann": b"se:cret", b"bob": b""})
        os.chmod(path, 0o644)
        self.assert_refused(f"--users: {path} is accessible to users other than", path)

    def test_invalid(self):
        """An invalid line is an error, and so is a second one for a user, a secret, and no line."""
        for line, problem in (
            (b"ann", "it is not a name, a colon and a password"),
            (b":secret", "it is not a name, a colon and a password"),
            (b"bob:y", "this user has a line already"),
            (b"ann:{SCRAM-SHA-256}4096,x,y,z", "it has the secret of a users file; write the "),
            (b"ann:{plain.b64}c2VjcmV0", "it has the secret of a users file; write the "),
        ):
            path = self.passwords(b"bob:x\n" + line)
            self.assert_refused(f"--users: {path}, line 2: {problem}", path)
        for octets in (b"", b"\n# ann:secret\n"):
            path = self.passwords(octets)
            self.assert_refused(f"--users: {path} has no line NAME:PASSWORD", path)
        for password in (b"{x}y", b"{", b"$6$x", b"{PLAINS}x"):
            path = self.passwords(b"ann:" + password)
            self.assertEqual(read_passwords(path), {b"ann": password})

    def test_unreadable(self):
        """A file that cannot be read is an error with its path."""
        self.assert_refused("--users: /: Is a directory", "/")
        self.assert_refused("--users: /nowhere: No such file or directory", "/nowhere")

    def assert_refused(self, message, path):
        """Check that a file is refused with a message."""
        error = self.assertRaises(ValueError, read_passwords, path)
        self.assertTrue(str(error).startswith(message), error)
