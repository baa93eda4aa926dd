"""Tests of popserv.maildrops.mbox.spool_group."""

import os
from pwd import getpwnam

from popserv.maildrops.mbox.spool_group import credentials_for_new, in_spool_group
from popserv.runtime.file_credentials import NOBODY, FileCredentials, acting_as, own
from tests.live.harness import temporary_directory
from tests.runtime.harness import ANN, CredentialsCase, in_kernel


class SpoolGroupTests(CredentialsCase):
    """Users have the group of a spool directory for lock files only."""

    def test_directories(self):
        """Only for a directory of root's in which a group other than root's may write."""
        directory = temporary_directory(self)
        fd = os.open(directory, os.O_RDONLY)
        self.addCleanup(os.close, fd)
        for uid, gid, mode, group in (
            (0, 8, 0o2775, 8),
            (0, 8, 0o755, ANN.gid),
            (0, 0, 0o775, ANN.gid),
            (ANN.uid, 8, 0o775, ANN.gid),
        ):
            directory.chmod(mode)
            os.chown(directory, uid, gid)
            with acting_as(ANN), in_spool_group(fd):
                self.assertEqual(in_kernel(), ANN._replace(gid=group))
            with in_spool_group(fd):
                self.assertEqual(in_kernel(), own())

    def test_credentials_for_new(self):
        """A new file is that of the system's user of its name, if nobody else is known."""
        directory = temporary_directory(self)
        fd = os.open(directory, os.O_RDONLY)
        self.addCleanup(os.close, fd)
        daemon = getpwnam("daemon")
        expected = FileCredentials(daemon.pw_uid, daemon.pw_gid)
        self.assertIsNone(credentials_for_new(fd, b"daemon"))
        for uid, gid, mode, acting, name, owner in (
            (0, 8, 0o2775, NOBODY, b"daemon", expected),
            (0, 8, 0o2775, ANN, b"daemon", ANN),
            (0, 8, 0o2775, NOBODY, b"root", None),
            (0, 8, 0o2775, NOBODY, b"no such user", None),
            (0, 8, 0o755, NOBODY, b"daemon", NOBODY),
            (ANN.uid, 8, 0o775, NOBODY, b"daemon", NOBODY),
        ):
            directory.chmod(mode)
            os.chown(directory, uid, gid)
            with acting_as(acting):
                if owner is None:
                    with self.assertRaisesRegex(PermissionError, "no user .* create the file"):
                        credentials_for_new(fd, name)
                    continue
                self.assertEqual(credentials_for_new(fd, name), owner, name)
