"""Tests of popserv.runtime.unix_paths."""

import os
import socket
import tempfile

from twisted.trial.unittest import SynchronousTestCase

from popserv.runtime.unix_paths import is_too_long


class LengthTests(SynchronousTestCase):
    """is_too_long."""

    def test_socket(self):
        """A socket can be bound to the longest path that is allowed, and not to a longer one."""
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "\xe4")
            path += "x" * (107 - len(os.fsencode(path)))
            self.assertFalse(is_too_long(path))
            self.assertTrue(is_too_long(path + "x"))
            with socket.socket(socket.AF_UNIX) as listening:
                self.assertRaises(OSError, listening.bind, path + "x")
                listening.bind(path)
