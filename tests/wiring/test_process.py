"""Tests of popserv.wiring.process."""

import io
import sys
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from popserv.wiring import process
from popserv.wiring.process import default_max_connections, prepare_process


class ProcessTests(SynchronousTestCase):
    """What is set up before the server starts."""

    def test_standard_output(self):
        """Standard output escapes what its encoding does not have; another stream is left alone."""
        ascii_only, text = io.TextIOWrapper(io.BytesIO(), encoding="ascii"), io.StringIO()
        for stream in (ascii_only, text):
            self.patch(sys, "__stdout__", stream)
            prepare_process()
            stream.write("é")
            stream.flush()
        self.assertEqual((ascii_only.buffer.getvalue(), text.getvalue()), (b"\\xe9", "é"))

    def test_max_connections(self):
        """The default connection limit depends on the limit of open files; at most 10,000."""
        with patch.object(process, "setrlimit"):
            for hard, connections in [(1024, 231), (10, 1), (1 << 20, 10_000), (-1, 10_000)]:
                with patch.object(process, "getrlimit", return_value=(1024, hard)):
                    self.assertEqual(default_max_connections(), connections)
