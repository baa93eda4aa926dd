"""Descriptors are closed."""

import errno
import os

from twisted.trial.unittest import SynchronousTestCase

from popserv.runtime import closing
from popserv.runtime.closing import close


class CloseTests(SynchronousTestCase):
    """Descriptors of which nothing has to be written."""

    def test_failure(self):
        """An error of the file system tells nothing, and Linux has closed the descriptor."""

        def fail(fd):
            really_close(fd)
            raise OSError(errno.EIO, "as NFS may say")

        fd, really_close = os.open("/", os.O_RDONLY), os.close
        self.patch(closing.os, "close", fail)
        close(fd)
        self.assertRaises(OSError, os.fstat, fd)

    def test_twice(self):
        """A descriptor that is not open is a fault of the program."""
        fd = os.open("/", os.O_RDONLY)
        close(fd)
        with self.assertRaises(OSError) as raised:
            close(fd)
        self.assertEqual(raised.exception.errno, errno.EBADF)
