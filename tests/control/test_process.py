"""What one process answers."""

from twisted.internet.address import IPv4Address
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from popserv.control import process
from popserv.interfaces import ICaching
from tests.control.harness import ControlMixin


@implementer(ICaching)
class Cache:
    """Something with a cache."""

    def cache_sizes(self):
        """See ICaching."""
        return {"maildrops": 3, "messages": 70}


class FewCertificates:
    """Stands for Certificates."""

    def overview(self):
        """See Certificates."""
        names = [f"{at}.example.org" for at in range(30)]
        return [{"file": f"{at}.pem", "names": names, "ends": f"{2032 - at}"} for at in range(3)]


class ProcessTests(ControlMixin, SynchronousTestCase):
    """The answers to the questions of the control socket."""

    caching = (Cache(), object(), Cache())
    certificates = FewCertificates()

    def ask(self, topic, question=None):
        """Return the answer to a question."""
        answers = self.successResultOf(self.bus.ask_here(f"control {topic}", question))
        self.assertEqual(answers.missing, 0)
        return answers.given[0]

    def test_status(self):
        """The status has the numbers of the process, and the sums of its caches."""
        verifyObject(ICaching, Cache())
        self.logged_in()
        self.connect()
        self.assertEqual(
            self.ask("status"),
            {
                "connections": 2,
                "sessions": 1,
                "accepted": 2,
                "logins": 1,
                "networks_with_failures": 0,
                "caches": {"maildrops": 6, "messages": 140},
            },
        )

    def test_sessions(self):
        """The connections are listed from a number on."""
        self.connect()
        pid = self.ask("sessions", [0, 0])["pid"]
        (one,) = self.ask("sessions", [pid, 0])["sessions"]
        number = int(one["id"].partition(".")[2])
        self.assertEqual(self.ask("sessions", [pid, number]), {"pid": pid, "sessions": []})

    def test_overview(self):
        """The overview has the status, the first sessions, and the certificates that end first."""
        self.connect()
        self.logged_in()
        overview = self.ask("overview", [1, 2])
        self.assertEqual(overview["status"], self.ask("status"))
        self.assertEqual([each["user"] for each in overview["sessions"]], ["ann"])
        ends = [(each["file"], each["ends"]) for each in overview["certificates"]]
        self.assertEqual(ends, [("2.pem", "2030"), ("1.pem", "2031")])
        self.assertEqual([len(each["names"]) for each in overview["certificates"]], [10, 10])
        self.assertEqual(overview["certificate_count"], 3)

    def test_kick(self):
        """Connections are ended."""
        self.logged_in()
        self.assertEqual(self.ask("kick", "ann"), 1)

    def test_certificates(self):
        """The certificates are listed from a position on, each with few of its names."""
        self.patch(process, "MAX_CERTIFICATES", 2)
        first = self.ask("certificates", -1)
        self.assertEqual([each["position"] for each in first], [0, 1])
        self.assertEqual([len(each["names"]) for each in first], [10, 10])
        (last,) = self.ask("certificates", 1)
        self.assertEqual((last["file"], last["ends"]), ("2.pem", "2030"))

    def test_unblock(self):
        """The failed logins of a network are forgotten, by any of its addresses."""
        peer = IPv4Address("TCP", "192.0.2.1", 1234)
        for password in (b"1", b"2"):
            self.connect(b"USER ann", b"PASS " + password, peer=peer)
        self.assertEqual(self.ask("status")["networks_with_failures"], 1)
        self.assertEqual([self.ask("unblock", "192.0.2.1") for _ in range(2)], [2, 0])
        self.assertEqual(self.ask("status")["networks_with_failures"], 0)
        penalties = self.factory.throttle.penalties
        penalties.record_failure("2001:db8::/64", [b"ann", b"pw"])
        self.assertEqual(self.ask("unblock", "2001:db8::77"), 1)


class WithoutCertificatesTests(ControlMixin, SynchronousTestCase):
    """A server without TLS."""

    def test_none(self):
        """There are no certificates, and no network of a trusted client."""
        answers = self.successResultOf(self.bus.ask_here("control certificates", -1))
        self.assertEqual(answers.given, ([],))
        (overview,) = self.successResultOf(self.bus.ask_here("control overview", [9, 9])).given
        self.assertEqual((overview["certificates"], overview["certificate_count"]), ([], 0))

    def test_trusted(self):
        """A network that is trusted has no failed logins that are counted."""
        self.patch(self.factory.networks, "of", lambda address: None)
        answers = self.successResultOf(self.bus.ask_here("control unblock", "192.0.2.1"))
        self.assertEqual(answers.given, (None,))
