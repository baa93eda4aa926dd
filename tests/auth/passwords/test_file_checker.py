"""Tests of popserv.auth.passwords.file_checker; those of its logins are in test_checker."""

import os
import pwd
from unittest import mock

from twisted.cred.credentials import IUsernamePassword
from twisted.cred.strcred import makeChecker
from zope.interface.verify import verifyObject

from popserv.auth.passwords.file_checker import PasswdFileChecker
from popserv.auth.passwords.users_file import UsersFileError
from popserv.interfaces import IReloadable
from tests.auth.passwords.test_users_file import UsersFileCase


class ReloadTests(UsersFileCase):
    """PasswdFileChecker.reload."""

    def test_reload(self):
        """A problem is logged each time, although it was logged before; a valid file is not."""
        self.write(b"ann:{PLAIN}a")
        checker = PasswdFileChecker(self.path)
        verifyObject(IReloadable, checker)
        checker.reload()
        self.assertEqual(self.events, [])
        os.chmod(self.path, 0o644)
        for _ in range(2):
            checker.supports(IUsernamePassword)
            self.events.clear()
            checker.reload()
            self.assertIn("chmod o=", self.logged())
        self.write(b"ann:{PLAIN}a\nbob")
        self.events.clear()
        checker.reload()
        self.assertIn(f"{self.path}, line 2: line ignored", self.logged())


class FromFileTests(UsersFileCase):
    """PasswdFileChecker.from_file, and the plugin that calls it."""

    def test_users(self):
        """A file with users is accepted without a message."""
        self.write(b"ann:{PLAIN}a")
        self.assertIsInstance(PasswdFileChecker.from_file(self.path), PasswdFileChecker)
        self.assertEqual(self.events, [])

    def test_no_users(self):
        """Without users, the log has the command that adds the first."""
        self.path += " of mine"
        for _ in range(2):
            self.events.clear()
            PasswdFileChecker.from_file(self.path)
            self.assertIn(f"popserv user add --users '{self.path}' NAME", self.logged())
            self.write(b"# nobody yet\n")

    def test_whole_path(self):
        """A message has the absolute path, and the user who has no permission."""
        path = os.path.join(self.path, "users")
        self.write(b"")
        for given in (path, os.path.relpath(path)):
            self.assertIn(
                f"cannot read {path}: Not a dir", self.error_of(PasswdFileChecker.from_file, given)
            )
        denied = PermissionError(13, "Permission denied")
        with mock.patch.object(os, "stat", side_effect=denied):
            error = self.error_of(PasswdFileChecker.from_file, os.path.relpath(self.path))
        user = pwd.getpwuid(os.geteuid()).pw_name
        self.assertEqual(error, f"cannot read {self.path}: Permission denied for user {user}")

    def test_unusable_file(self):
        """A file that is accessible to other users is an error."""
        self.write(b"ann:{PLAIN}a", 0o644)
        self.assertIn("chmod o=", self.error_of(PasswdFileChecker.from_file, self.path))
        self.assertRaises(UsersFileError, makeChecker, "passwd-file:" + self.path)

    def test_no_path(self):
        """An empty path is an error that states the syntax."""
        self.assertIn("passwd-file:PATH", self.error_of(PasswdFileChecker.from_file, ""))

    def test_plugin(self):
        """``--auth passwd-file:FILE`` makes a PasswdFileChecker."""
        checker = makeChecker("passwd-file:" + self.path)
        self.assertIsInstance(checker, PasswdFileChecker)
