"""What is known of a server as a whole."""

from twisted.internet.defer import succeed
from twisted.trial.unittest import SynchronousTestCase

from popserv import __version__
from popserv.control.overview import Overviews
from popserv.runtime.bus import Answers
from tests.control.harness import ControlMixin
from tests.control.test_responder import FakeWorkers

NUMBERS = {
    "connections": 3,
    "sessions": 2,
    "accepted": 4,
    "logins": 3,
    "networks_with_failures": 1,
    "caches": {"maildrops": 5},
}


def answer(*sessions):
    """Return the answer of a process with these sessions, each an ID and a state."""
    return {
        "status": NUMBERS,
        "sessions": [{"id": each, "state": state} for each, state in sessions],
        "certificates": [{"file": "a.pem"}],
        "certificate_count": 7,
    }


class ProcessTests(ControlMixin, SynchronousTestCase):
    """A server of one process."""

    def test_overview(self):
        """The overview has the status, and who is on."""
        self.logged_in()
        overviews = Overviews(self.bus.ask_here, None, self.log_level)
        overview = self.successResultOf(overviews.ask(10, 10))
        self.assertEqual([each["user"] for each in overview.sessions], ["ann"])
        self.assertEqual(
            (overview.workers, overview.certificates, overview.certificate_count, overview.missing),
            ([], [], 0, 0),
        )
        self.assertEqual(
            [overview.status[name] for name in ("version", "sessions", "log_level")],
            [__version__, 1, "debug"],
        )

    def test_uptime(self):
        """The uptime is the time since the server started."""
        overviews = Overviews(self.bus.ask_here, None, None)
        uptimes = [overviews.status([])["uptime"] for _ in range(2)]
        self.assertTrue(0 <= uptimes[0] <= uptimes[1])


class WorkersTests(SynchronousTestCase):
    """A server with workers."""

    def overview(self, *given, maximum=10, missing=0):
        """Return the overview of a server whose processes have given these answers."""
        asked = []

        def ask(topic, question):
            asked.append((topic, question))
            return succeed(Answers(given, missing))

        overviews = Overviews(ask, FakeWorkers(), None)
        overview = self.successResultOf(overviews.ask(maximum, 20))
        self.assertEqual(asked, [("control overview", [maximum, 20])])
        return overview

    def test_sums(self):
        """Numbers are added up, and all processes have the same certificates."""
        overview = self.overview(answer(), answer(), missing=1)
        self.assertEqual((overview.status["logins"], overview.missing), (6, 1))
        self.assertEqual(overview.status["caches"], {"maildrops": 10})
        self.assertEqual((len(overview.certificates), overview.certificate_count), (1, 7))
        self.assertEqual([each["pid"] for each in overview.workers], [101, 102])

    def test_sessions(self):
        """Of all processes' sessions, those that are logged in come first, in the order of IDs."""
        answers = [
            answer(("10.1", "TRANSACTION"), ("10.2", "AUTHORIZATION")),
            answer(("9.7", "TRANSACTION"), ("9.10", "UPDATE"), ("9.1", "AUTHORIZATION")),
        ]
        for maximum, ids in (
            (10, ["9.7", "9.10", "10.1", "9.1", "10.2"]),
            (2, ["9.7", "9.10"]),
        ):
            overview = self.overview(*answers, maximum=maximum)
            self.assertEqual([each["id"] for each in overview.sessions], ids)

    def test_no_answers(self):
        """If no process answers, there is nothing but what the main process knows."""
        overview = self.overview(missing=2)
        self.assertEqual((overview.sessions, overview.certificates), ([], []))
        self.assertEqual((overview.status["connections"], overview.missing), (0, 2))
