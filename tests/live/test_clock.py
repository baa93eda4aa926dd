"""The time of day is set while a server runs.

The servers read their time of day through a sitecustomize.py, which adds a number of seconds that
the test writes to a file.
"""

from twisted.trial.unittest import TestCase

from tests.live.harness import CHECKOUT, Server, temporary_directory

DAY = 24 * 60 * 60

SITECUSTOMIZE = """\
import time
real_time = time.time
def time_of_day():
    with open({path!r}) as file:
        return real_time() + float(file.read())
time.time = time_of_day
"""


class TimeOfDayTests(TestCase):
    """Only the seconds that pass count, in one process and in workers."""

    def start(self, *options):
        """Start a server whose time of day the test can set."""
        directory = temporary_directory(self)
        self.offset = directory / "offset"
        self.set_time(0)
        code = SITECUSTOMIZE.format(path=str(self.offset))
        (directory / "sitecustomize.py").write_text(code)
        server = Server(*options, environment={"PYTHONPATH": f"{directory}:{CHECKOUT}"})
        self.addCleanup(server.stop)
        return server

    def set_time(self, seconds):
        """Add a number of seconds to the time of day of the server."""
        # Replaced in one step, because the server reads it all the time.
        new = self.offset.with_name("new")
        new.write_text(str(seconds))
        new.rename(self.offset)

    def test_forward(self):
        """A time of day that is set forward disconnects nobody."""
        for options in ((), ("--workers=2",)):
            server = self.start(*options)
            idle = server.connect()
            self.addCleanup(idle.abandon)
            self.set_time(DAY)
            # Both workers have run their timers when they have answered these.
            for _ in range(20):
                server.connect().close()
            self.assertEqual(idle.ask(b"NOOP")[:4], b"-ERR")
            self.assertNotIn("heartbeat", server.log)

    def test_back(self):
        """A time of day that is set back keeps nobody connected, and delays no reply."""
        # Longer than the delay after a failed login.
        server = self.start("--timeout=3")
        idle = server.connect()
        self.addCleanup(idle.abandon)
        guessing = server.connect()
        self.addCleanup(guessing.abandon)
        guessing.ask(b"USER joe")
        guessing.socket.sendall(b"PASS wrong\r\n")
        self.set_time(-DAY)
        self.assertIn(b"[AUTH]", guessing.line())
        self.assertEqual(idle.rest(), b"")
