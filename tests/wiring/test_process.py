"""Tests of popserv.wiring.process."""

import io
import sys
from resource import RLIMIT_CORE
from unittest.mock import patch

from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.layout import Layout
from popserv.maildrops.memory import MemoryMaildrops
from popserv.maildrops.owners.store import OwnersStore
from popserv.wiring import process
from popserv.wiring.process import default_max_connections, prepare_process


class UserTests(SynchronousTestCase):
    """The log says as whom the server runs and accesses maildrops."""

    def log(self, store, found, uid):
        """Return the level and the text of the line."""
        with (
            capturedLogs() as events,
            patch.object(process, "obstacle", return_value=found),
            patch.object(process, "this_uid", return_value=uid),
        ):
            process.log_user(store)
        (event,) = events
        return event["log_level"].name, formatEvent(event)

    def test_users(self):
        """Root is warned of, with the remedy; any other user is only named."""
        owners = OwnersStore(MemoryMaildrops({}), Layout("/home/%u"))
        memory = MemoryMaildrops({})
        for store, found, uid, expected in (
            (owners, "", 0, ("warn", "to, but .* reads from the network: .* with --as-owners")),
            (owners, "no", 0, ("warn", "who also accesses the maildrops, because no: links")),
            (memory, "", 0, ("warn", "maildrops, and reads from the network: use twistd's --uid$")),
            (owners, "", 5, ("info", "accessed as the user whom it belongs to$")),
            (owners, "no", 5, ("info", ", who also accesses the maildrops$")),
            (memory, "", 5, ("info", ", who also accesses the maildrops$")),
        ):
            level, text = self.log(store, found, uid)
            self.assertEqual(level, expected[0], text)
            self.assertRegex(text, expected[1])


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

    def test_cores(self):
        """The soft limit of cores is 1, which also forbids those for another program, or 0."""
        for hard, soft in ((-1, 1), (1 << 30, 1), (1, 1), (0, 0)):
            with (
                patch.object(process, "getrlimit", return_value=(hard, hard)),
                patch.object(process, "setrlimit") as limited,
            ):
                process.forbid_cores()
            limited.assert_called_once_with(RLIMIT_CORE, (soft, hard))

    def test_max_connections(self):
        """The default connection limit depends on the limit of open files; at most 10,000."""
        with patch.object(process, "setrlimit"):
            for hard, connections in [(1024, 231), (10, 1), (1 << 20, 10_000), (-1, 10_000)]:
                with patch.object(process, "getrlimit", return_value=(1024, hard)):
                    self.assertEqual(default_max_connections(), connections)
