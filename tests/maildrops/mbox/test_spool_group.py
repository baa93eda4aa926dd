"""Tests of popserv.maildrops.mbox.spool_group."""

import os

from popserv.maildrops.mbox.spool_group import in_spool_group
from popserv.runtime.file_credentials import acting_as, own
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
