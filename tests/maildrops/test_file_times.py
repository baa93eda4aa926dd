"""Tests of popserv.maildrops.file_times."""

import os
import time

from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.file_times import CLOCK_TICK, FILE_CLOCK


class FileClockTests(SynchronousTestCase):
    """The clock of file systems."""

    def test_file_clock(self):
        """The modification time of a file is not before FILE_CLOCK at the start of the write."""
        for _ in range(20):
            path = self.mktemp()
            before = time.clock_gettime_ns(FILE_CLOCK)
            with open(path, "wb"):
                pass
            after = time.clock_gettime_ns(FILE_CLOCK)
            modified = os.stat(path).st_mtime_ns
            self.assertLessEqual(before, modified)
            # Kernels since 6.13 have finer times for some files.
            self.assertLessEqual(modified, after + CLOCK_TICK)
