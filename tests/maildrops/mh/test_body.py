"""Tests of popserv.maildrops.mh.body."""

import os
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from popserv.errors import MessageChanged
from popserv.maildrops.mh import body as module
from popserv.maildrops.mh.body import Body
from popserv.maildrops.page_cache import CHUNK
from popserv.testing import read_all
from tests.maildrops.maildir.harness import result, run_inline, watch_descriptors


class BodyTests(SynchronousTestCase):
    """The chunks of a file."""

    def setUp(self):
        """Write a file of more than one chunk."""
        self.octets = b"0123456789" * (CHUNK // 5)
        self.path = self.mktemp()
        with open(self.path, "wb") as file:
            file.write(self.octets)
        watch_descriptors(self)

    def read(self, length):
        """Read the file as one of this length."""
        return result(read_all(Body(os.open(self.path, os.O_RDONLY), length, run_inline)))

    def test_chunks(self):
        """All octets are read, from the page cache or in a thread."""
        self.assertEqual(self.read(len(self.octets)), self.octets)
        with patch.object(module, "read_part", return_value=None):
            self.assertEqual(self.read(len(self.octets)), self.octets)

    def test_shorter(self):
        """A file that has become shorter is noticed."""
        body = Body(os.open(self.path, os.O_RDONLY), len(self.octets) + 1, run_inline)
        self.addCleanup(body.close)
        chunks = list(body)
        with self.assertRaises(MessageChanged):
            result(chunks[-1])

    def test_empty(self):
        """An empty file has no octets."""
        self.assertEqual(self.read(0), b"")
