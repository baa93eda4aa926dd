"""Tests of popserv.maildrops.owners.credentials."""

import os
import pwd
from unittest import mock

from popserv.errors import MaildropUnavailable
from popserv.maildrops.layout import Layout
from popserv.maildrops.owners import credentials
from popserv.maildrops.owners.credentials import MAX_AGE, Owners, credentials_of
from popserv.maildrops.owners.paths import owner_of_path
from popserv.runtime.file_credentials import NOBODY, FileCredentials
from tests.live.harness import temporary_directory
from tests.maildrops.maildir.harness import result, run_inline
from tests.runtime.harness import CredentialsCase


class GroupTests(CredentialsCase):
    """The groups of a user."""

    def test_entry(self):
        """A user with an entry has the groups that are there for it."""
        entry = mock.Mock(pw_name="ann", pw_gid=6000)
        with (
            mock.patch.object(credentials, "getpwuid", return_value=entry),
            mock.patch.object(os, "getgrouplist", return_value=[8, 6000, 7]) as groups,
        ):
            self.assertEqual(credentials_of(5000), FileCredentials(5000, 6000, (7, 8)))
        groups.assert_called_once_with("ann", 6000)

    def test_real_entry(self):
        """The groups of daemon are those that the system knows."""
        entry = pwd.getpwnam("daemon")
        found = credentials_of(entry.pw_uid)
        self.assertEqual((found.uid, found.gid), (entry.pw_uid, entry.pw_gid))
        self.assertNotIn(entry.pw_gid, found.groups)

    def test_no_entry(self):
        """A user without an entry is in no group."""
        self.assertEqual(credentials_of(123_456), FileCredentials(123_456, NOBODY.gid))


class OwnersTests(CredentialsCase):
    """Owners are looked up in a thread, and remembered for a short time."""

    def setUp(self):
        """Make Ann's directory."""
        super().setUp()
        self.root = temporary_directory(self)
        self.home = self.root / "ann"
        self.home.mkdir()
        self.now = 0.0
        self.owners = Owners(Layout(f"{self.root}/%u"), [b"cur"], run_inline, lambda: self.now)
        self.give(5000)

    def give(self, uid):
        """Give the directory another owner."""
        os.chown(self.home, uid, uid)

    def found(self, user=b"ann", path=b""):
        """Return the uid that is found, or None."""
        found = result(self.owners.find(user, path))
        return found and found.uid

    def test_remembered(self):
        """For a minute, the previous owner is still used; then, or after forget, the new one."""
        self.assertEqual(self.found(), 5000)
        self.give(5001)
        self.now = MAX_AGE - 1
        self.assertEqual(self.found(), 5000)
        self.now = MAX_AGE
        self.assertEqual(self.found(), 5001)
        self.give(5002)
        for _ in range(2):
            self.owners.forget(b"ann", b"")
        self.assertEqual(self.found(), 5002)

    def test_process(self):
        """Root, and the user of the process, need no other credentials, and are not remembered."""
        self.give(0)
        self.assertEqual(self.found(), None)
        self.give(5001)
        with mock.patch.object(credentials, "own", return_value=FileCredentials(5001, 1)):
            self.assertEqual(self.found(), None)
            self.give(5002)
            self.assertEqual(self.found(), 5002)
            self.owners.forget(b"ann", b"")
            self.give(0)
            self.assertEqual(self.found(), None)

    def test_process_again(self):
        """A maildrop of the process is examined at each login, and looked up if it has changed."""
        self.give(0)
        (self.home / "cur").mkdir()
        with mock.patch.object(credentials, "owner_of_path", wraps=owner_of_path) as look_up:
            for _ in range(3):
                self.assertEqual(self.found(), None)
            self.assertEqual(look_up.call_count, 1)
            self.home.chmod(0o700)
            self.assertEqual(self.found(), None)
            self.assertEqual(look_up.call_count, 2)
            self.give(5001)
            self.assertEqual(self.found(), 5001)

    def test_inside(self):
        """The directories in a maildrop are looked at."""
        self.give(0)
        (self.home / "cur").mkdir()
        os.chown(self.home / "cur", 5003, 5003)
        self.assertEqual(self.found(), 5003)

    def test_path(self):
        """A maildrop with a path of its own is followed from the root directory of the system."""
        self.give(0)
        below = self.home / "%u"
        below.mkdir()
        self.assertEqual(self.found(path=os.fsencode(below)), None)
        self.give(5004)
        self.assertEqual(self.found(path=os.fsencode(below)), 5004)

    def test_shared(self):
        """Root opens nothing that others can replace; a server without its rights does."""
        self.give(0)
        self.home.chmod(0o777)
        with self.assertRaises(MaildropUnavailable) as refused:
            self.found()
        self.assertIn("others can write to it", str(refused.exception.__cause__))
        with mock.patch.object(credentials, "own", return_value=FileCredentials(5001, 1)):
            self.assertEqual(self.found(), None)

    def test_invalid_name(self):
        """For a name that cannot be a path, the store runs as nobody, and refuses it."""
        self.assertEqual(self.found(b"../ann"), NOBODY.uid)

    def test_bounded(self):
        """The owners of a limited number of maildrops are remembered."""
        self.patch(credentials, "_MAX_KNOWN", 2)
        for name, known in (("bob", 1), ("cid", 2), ("ann", 1)):
            (self.root / name).mkdir(exist_ok=True)
            os.chown(self.root / name, 5000, 5000)
            self.found(name.encode())
            self.assertEqual(len(self.owners._known), known)
        self.assertEqual([*self.owners._known], [(b"ann", b"")])
