"""Large messages of the SQL store: how much memory their delivery and their retrieval take."""

import os
import re
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.live.harness import CHECKOUT, TIMEOUT, Server, accepts, temporary_directory, until
from tests.live.sql_store import sql_file
from tests.live.test_lmtp import LMTP

MEGABYTE = 1 << 20

LARGE = 200
"""The megabytes of a large message."""

MOST = 64 * MEGABYTE
"""The octets that it may take besides those of a message of one megabyte."""

LINES = (b"x" * 62 + b"\r\n") * (MEGABYTE >> 6)

DELIVER = """
import sys
from popserv.commandline.main import main
try:
    main()
finally:
    print(open("/proc/self/status").read())
"""


def peak(status):
    """Return the greatest memory of a process in octets, from its /proc/PID/status."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) << 10


class LargeMessageTests(SynchronousTestCase):
    """A delivery of 200 MB takes hardly more memory than one of 1 MB."""

    def setUp(self):
        """Create a store, whose large messages are in a directory."""
        self.file = sql_file(self)

    def test_lmtp(self):
        """LMTP writes a large message to a file, and from there to an object in parts."""
        path = temporary_directory(self) / "lmtp"
        server = Server(
            *(f"--lmtp=unix:{path}", "--recipient-local-part", "--message-size-limit=300000000"),
            "--auth=memory:ann:secret",
            store=("--store", f"sql:{self.file}"),
        )
        self.addCleanup(server.stop)
        until(lambda: accepts(str(path)), "the socket")
        status = Path(f"/proc/{server.process.pid}/status")
        peaks = []
        for megabytes in (1, LARGE):
            client = LMTP(path)
            self.addCleanup(client.close)
            client.begin(b"ann")
            for _ in range(megabytes):
                client.socket.sendall(LINES)
            self.assertEqual(client.ask(b"."), ["250 2.0.0 message delivered"])
            peaks.append(peak(status.read_text()))
        self.assertLess(peaks[1] - peaks[0], MOST)
        session = server.login("ann")
        self.addCleanup(session.abandon)
        octets = LARGE * MEGABYTE + len(b"Return-Path: <s@example.org>\r\n")
        self.assertEqual(session.ask(b"LIST 2"), b"+OK 2 %d" % octets)
        self.assertTrue(session.ask(b"RETR 2").startswith(b"+OK"))
        self.assertEqual(session.line(), b"Return-Path: <s@example.org>")
        left = octets - len(b"Return-Path: <s@example.org>\r\n")
        while left:
            chunk = session.file.read(min(left, len(LINES)))
            self.assertEqual(chunk, LINES[: len(chunk)])
            left -= len(chunk)
        self.assertEqual(session.line(), b".")
        self.assertLess(peak(status.read_text()) - peaks[0], MOST)
        session.close()

    def test_command(self):
        """``popserv deliver`` as well."""
        peaks = []
        for megabytes in (1, LARGE):
            message = temporary_directory(self) / "message"
            with message.open("wb") as file:
                for _ in range(megabytes):
                    file.write(LINES)
            with message.open("rb") as file:
                done = subprocess.run(
                    [
                        *(sys.executable, "-c", DELIVER, "deliver", "--create"),
                        *("--store", f"sql:{self.file}", "ann"),
                    ],
                    stdin=file,
                    capture_output=True,
                    timeout=TIMEOUT,
                    check=False,
                    env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
                )
            self.assertEqual((done.returncode, done.stderr), (0, b""), repr(done))
            peaks.append(peak(done.stdout.decode()))
        self.assertLess(peaks[1] - peaks[0], MOST)
        sizes = sorted(path.stat().st_size for path in (self.file.parent / "objects").glob("*/*"))
        self.assertEqual(sizes, [MEGABYTE, LARGE * MEGABYTE])
