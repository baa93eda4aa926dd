"""Tests of popserv.doctor.serving_user."""

import os
from pwd import getpwnam

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from popserv.doctor.serving_user import ServingUser, acting_as
from popserv.runtime.capabilities import SWITCHING, effective
from popserv.runtime.file_credentials import obstacle
from tests.doctor.harness import open_directory
from tests.runtime.harness import in_thread


def identity():
    """Return the users and groups of the process."""
    return os.getresuid(), os.getresgid(), os.getgroups()


class ServingUserTests(SynchronousTestCase):
    """Acting as another user."""

    def test_nobody(self):
        """Root has the permissions of another user for a time, also for access(2)."""
        if os.geteuid() != 0:
            raise SkipTest("only root can act as another user")
        before = identity()
        path = open_directory(self) / "file"
        path.write_text("x")
        path.chmod(0o600)
        nobody = getpwnam("nobody")
        try:
            with acting_as(ServingUser(nobody.pw_uid, nobody.pw_gid)):
                self.assertEqual((os.getuid(), os.geteuid()), (nobody.pw_uid,) * 2)
                self.assertEqual((os.getgid(), os.getegid()), (nobody.pw_gid,) * 2)
                self.assertFalse(os.access(path, os.R_OK))
                self.assertRaises(PermissionError, path.read_text)
                raise KeyError
        except KeyError:
            """The process is itself again after an error, too."""
        self.assertEqual(identity(), before)
        self.assertEqual(path.read_text(), "x")

    def test_as_owners(self):
        """The user can become others, also in threads, and has no other right of root's."""
        if os.geteuid() != 0 or obstacle():
            raise SkipTest("only root on Linux can do this")
        nobody = getpwnam("nobody")
        with acting_as(ServingUser(nobody.pw_uid, nobody.pw_gid), as_owners=True):
            self.assertEqual(in_thread(effective), SWITCHING)
            self.assertEqual(in_thread(obstacle.__wrapped__), "")
        self.assertNotEqual(effective(), SWITCHING)

    def test_none(self):
        """Without a user, nothing is changed."""
        before = identity()
        with acting_as(None):
            self.assertEqual(identity(), before)
