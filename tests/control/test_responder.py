"""The responders to the commands of the control socket."""

import os
from types import SimpleNamespace

from twisted.internet.defer import Deferred, fail, succeed
from twisted.protocols import amp
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from popserv import __version__
from popserv.control import commands, responder, sessions
from popserv.control.commands import MAX_LISTING
from popserv.control.responder import Responder
from popserv.runtime.bus import Answers
from popserv.status_page.contents import MAX_CERTIFICATES, MAX_SESSIONS
from popserv.workers.questions import answer_line
from tests.control.harness import ControlMixin


class FakeWorkers:
    """Workers that the test describes."""

    is_replacing = False

    def __init__(self, count=2):
        self.count = count
        self.calls = []

    def replace_workers(self):
        """Record the call."""
        self.calls.append("replace")
        return Deferred()

    def overview(self):
        """Return processes."""
        return [
            {"number": n, "pid": 100 + n, "state": "serving", "uptime": 1.5}
            for n in range(1, self.count + 1)
        ]


class ResponderTestCase(ControlMixin, SynchronousTestCase):
    """Commands, as a client sends them."""

    def outcome(self, command, responder=None, **arguments):
        """Return the Deferred of an answer."""
        box = command.makeArguments(arguments, None)
        responder = (responder or self.responder()).locateResponder(command.commandName)
        return responder(box).addCallback(command.parseResponse, None)

    def call(self, command, responder=None, **arguments):
        """Return an answer."""
        return self.successResultOf(self.outcome(command, responder, **arguments))

    def assert_refused(self, text, command, responder=None, **arguments):
        """Check that a command is refused with a text."""
        failure = self.failureResultOf(self.outcome(command, responder, **arguments))
        self.assertEqual(failure.value.errorCode, b"REFUSED")
        self.assertIn(text, failure.value.description)


class CommandTests(ResponderTestCase):
    """The commands, in a server of one process."""

    def test_interface(self):
        """It is a locator of AMP's responders, and knows no other commands."""
        verifyObject(amp.IResponderLocator, self.responder())
        for name in (b"unknown", b"StartTLS", amp.ProtocolSwitchCommand.commandName):
            self.assertIsNone(self.responder().locateResponder(name))

    def test_status(self):
        """The status has the sums of all processes, and what is known of the server."""
        self.logged_in()
        status = self.call(commands.GetStatus)
        self.assertEqual(status["missing"], 0)
        self.assertGreaterEqual(status["status"].pop("uptime"), 0)
        self.assertEqual(
            status["status"],
            {
                "version": __version__,
                "connections": 1,
                "sessions": 1,
                "accepted": 1,
                "logins": 1,
                "networks_with_failures": 0,
                "caches": {},
                "log_level": "debug",
            },
        )

    def test_status_of_workers(self):
        """Numbers of workers are added up, except that of networks, which all of them know."""
        numbers = {"connections": 1, "sessions": 1, "accepted": 4, "logins": 3}
        given = [
            {**numbers, "networks_with_failures": 2, "caches": {"maildrops": 5}},
            {**numbers, "networks_with_failures": 3, "caches": {"maildrops": 1, "passwords": 7}},
        ]
        subject = self.responder(
            ask=lambda topic, question: succeed(Answers(given, 1)), log_level=None
        )
        answer = self.call(commands.GetStatus, subject)
        self.assertEqual(answer["missing"], 1)
        status = answer["status"]
        self.assertEqual(
            (status["accepted"], status["networks_with_failures"], status["log_level"]),
            (8, 3, None),
        )
        self.assertEqual(status["caches"], {"maildrops": 6, "passwords": 7})
        nobody = self.responder(ask=lambda topic, question: succeed(Answers((), 2)))
        self.assertEqual(self.call(commands.GetStatus, nobody)["status"]["logins"], 0)

    def test_kick(self):
        """Connections are ended, which is logged with the name escaped."""
        self.logged_in()
        self.assertEqual(self.call(commands.Kick, whom="ann"), {"kicked": 1, "missing": 0})
        self.assertEqual(self.call(commands.Kick, whom="\n\x1b")["kicked"], 0)
        self.assertIn('popserv kick "ann": 1 connections ended', self.log_lines())
        self.assertIn('popserv kick "\\n\\x1b": 0 connections ended', self.log_lines())

    def test_kick_nobody(self):
        """No user has an empty name."""
        client = self.connect()
        self.assert_refused("nobody is named", commands.Kick, whom="")
        self.assertFalse(client.closed)

    def test_unblock(self):
        """The failed logins of the network of an address are forgotten, in all processes."""
        self.factory.throttle.penalties.record_failure("192.0.2.1", [b"ann", b"pw"])
        answer = self.call(commands.Unblock, address="192.0.2.1")
        self.assertEqual(answer, {"failures": 1, "missing": 0})
        self.assertIn("popserv unblock 192.0.2.1: 1 failed logins are forgotten", self.log_lines())
        self.assertEqual(self.call(commands.Unblock, address="2001:db8::/64")["failures"], 0)

    def test_unblock_refused(self):
        """What is no address is refused, and so is one whose failed logins are not counted."""
        self.assert_refused("'ann' is no IP address", commands.Unblock, address="ann")
        trusting = self.responder(ask=lambda topic, question: succeed(Answers((None,), 0)))
        self.assert_refused("are not counted", commands.Unblock, trusting, address="192.0.2.1")

    def test_reload(self):
        """Files are read again."""
        self.assertEqual(self.call(commands.Reload), {})
        self.assertEqual(self.calls, ["reload"])

    def test_log_level(self):
        """The log level is told, and changed if one is given."""
        self.assertEqual(self.call(commands.SetLogLevel), {"level": "debug"})
        self.assertEqual(self.call(commands.SetLogLevel, level="warn"), {"level": "warn"})
        self.assertEqual(self.log_level.level, "warn")
        self.assertEqual(self.log_lines(), ["popserv log-level: the level is now warn"])

    def test_log_level_refused(self):
        """Another level is refused, and any if twistd writes the log."""
        self.assert_refused("'loud' is no level", commands.SetLogLevel, level="loud")
        without = self.responder(log_level=None)
        self.assert_refused("twistd writes the log", commands.SetLogLevel, without, level="warn")

    def test_drain(self):
        """The server stops; sessions have the given seconds, those of --drain, or 60."""
        for seconds, option, expected in ((7, 30, 7), (None, 30, 30), (None, 0, 60), (0, 30, 0)):
            self.calls.clear()
            subject = self.responder(drain_seconds=option)
            answer = self.call(commands.Drain, subject, seconds=seconds, workers=False)
            self.assertEqual(answer, {"seconds": expected, "missing": 0})
            self.assertEqual(self.calls, [("drain", expected), ("stop", expected)])

    def test_drain_refused(self):
        """Other seconds are refused, and workers if there are none."""
        for seconds in (-1, 86_401):
            self.assert_refused("from 0 to 86400", commands.Drain, seconds=seconds, workers=False)
        self.assert_refused("has no workers", commands.Drain, workers=True)
        self.assertEqual(self.calls, [])

    def test_drain_workers(self):
        """The workers are replaced once all of them know the seconds; the server goes on."""
        self.workers = FakeWorkers()
        allowed = Deferred()
        subject = self.responder(allow_drain=lambda seconds: allowed)
        answer = self.outcome(commands.Drain, subject, seconds=9, workers=True)
        self.assertEqual(self.workers.calls, [])
        allowed.callback(Answers(()))
        self.assertEqual(self.successResultOf(answer), {"seconds": 9, "missing": 0})
        self.assertEqual((self.workers.calls, self.calls), (["replace"], []))
        self.workers.is_replacing = True
        self.assert_refused("being replaced already", commands.Drain, workers=True)
        self.assertEqual(self.calls, [])

    def test_drain_workers_twice(self):
        """The first who asks gives the seconds, also before all workers know them."""
        self.workers = FakeWorkers()
        allowed = {}

        def allow_drain(seconds):
            allowed[seconds] = Deferred()
            return allowed[seconds]

        subject = self.responder(allow_drain=allow_drain)
        first = self.outcome(commands.Drain, subject, seconds=9, workers=True)
        self.assert_refused(
            "being replaced already", commands.Drain, subject, seconds=0, workers=True
        )
        self.assertEqual(list(allowed), [9])
        allowed[9].callback(Answers(()))
        self.successResultOf(first)
        self.assertEqual(self.workers.calls, ["replace"])

    def test_drain_workers_again(self):
        """The workers can be replaced after an attempt that has failed."""
        self.workers = FakeWorkers()
        allowed = [fail(ValueError()), succeed(Answers(()))]
        subject = self.responder(allow_drain=lambda seconds: allowed.pop(0))
        self.failureResultOf(self.outcome(commands.Drain, subject, workers=True))
        self.flushLoggedErrors(ValueError)
        self.call(commands.Drain, subject, workers=True)
        self.assertEqual(self.workers.calls, ["replace"])

    def test_drain_missing(self):
        """Processes that have not answered may not know the seconds, and are counted."""
        subject = self.responder(allow_drain=lambda seconds: succeed(Answers((None,), 2)))
        answer = self.call(commands.Drain, subject, workers=False)
        self.assertEqual((answer, self.calls), ({"seconds": 60, "missing": 2}, [("stop", 60)]))

    def test_invalid_arguments(self):
        """An argument that is missing or invalid is refused, and not logged as an error."""
        for command, box in [
            (commands.Kick, {}),
            (commands.Kick, {b"whom": b"\xff"}),
            (commands.Drain, {b"seconds": b"many", b"workers": b"False"}),
            (commands.Drain, {b"workers": b"perhaps"}),
            (commands.List, {b"listing": b"sessions"}),
        ]:
            respond = self.responder().locateResponder(command.commandName)
            with self.assertRaises(amp.RemoteAmpError) as raised:
                respond(amp.AmpBox(box))
            self.assertEqual(raised.exception.errorCode, b"INVALID")


class ListingTests(ResponderTestCase):
    """Listings, in parts."""

    def listed(self, listing, subject=None):
        """Return all items of a listing, and the number of its parts."""
        subject = subject or self.responder()
        items, following, parts = [], "", 0
        while following or not parts:
            parts += 1
            part = self.call(commands.List, subject, listing=listing, after=following)
            items += part["items"]
            following = part["following"]
        return items, parts

    def test_sessions(self):
        """All connections are listed, in as many parts as are needed."""
        self.patch(sessions, "MAX_ITEMS", 10)
        for _ in range(25):
            self.connect()
        items, parts = self.listed("sessions")
        # One to find the process, and one that is empty.
        self.assertEqual((len(items), parts), (25, 5))
        self.assertEqual(len({each["id"] for each in items}), 25)

    def test_long_names(self):
        """A part never has more octets than a value of AMP can have, whatever the names."""
        for _ in range(150):
            self.connect().server.session.name = "\U0001f4ec".encode() * 200
        items, parts = self.listed("sessions")
        self.assertEqual(len(items), 150)
        self.assertLess(parts, 15)

    def test_answer_of_a_process(self):
        """Whatever the names of its connections, a process can answer."""
        for _ in range(sessions.MAX_ITEMS + 1):
            self.connect().server.session.name = "\U0001f4ec".encode() * 200
        answers = self.successResultOf(self.bus.ask_here("control sessions", (os.getpid(), 0)))
        line = answer_line(1, answers)
        self.assertGreater(len(line), 80_000)

    def test_overview_of_a_process(self):
        """So it can for the page of --metrics, with as many certificates as that shows."""
        for _ in range(MAX_SESSIONS):
            self.logged_in().server.session.name = "\U0001f4ec".encode() * 200
        names = [f"{at:0>240}.example.org" for at in range(10)]
        file = "\udcff" * 1000
        certificate = {"file": file, "names": names, "ends": "2032-01-01T00:00:00+00:00"}
        self.patch(
            self.process,
            "_certificates",
            SimpleNamespace(overview=lambda: [certificate] * MAX_CERTIFICATES),
        )
        question = (MAX_SESSIONS, MAX_CERTIFICATES)
        answers = self.successResultOf(self.bus.ask_here("control overview", question))
        self.assertGreater(len(answer_line(1, answers)), 250_000)

    def test_processes(self):
        """All connections of each process are listed, however many each has."""
        numbers = {9: range(1, 251), 10: (), 11: range(5, 7)}

        def ask(topic, after):
            given = []
            for pid, present in numbers.items():
                given.append({"pid": pid})
                if after[0] == pid:
                    later = [number for number in present if number > after[1]]
                    found = [{"id": f"{pid}.{number}"} for number in later[:100]]
                    given[-1]["sessions"] = found
            return succeed(Answers(given, 1))

        items, _ = self.listed("sessions", self.responder(ask=ask))
        self.assertEqual(
            [each["id"] for each in items],
            [f"{pid}.{number}" for pid, present in numbers.items() for number in present],
        )

    def test_no_process(self):
        """Without an answer there is nothing to list, and the missing processes are counted."""
        nobody = self.responder(ask=lambda topic, question: succeed(Answers((), 2)))
        part = self.call(commands.List, nobody, listing="sessions", after="")
        self.assertEqual(part, {"items": [], "following": "", "missing": 2})

    def test_workers(self):
        """Workers are listed by their process IDs; one process has none."""
        self.assertEqual(self.listed("workers"), ([], 1))
        self.workers = FakeWorkers(3)
        self.patch(responder, "MAX_LISTING", 130)
        items, parts = self.listed("workers")
        self.assertEqual(([each["pid"] for each in items], parts), ([101, 102, 103], 2))

    def test_certificates(self):
        """The certificates of one process are listed, since all have the same."""
        found = [{"position": at, "file": f"{at}.pem"} for at in range(3)]

        def ask(topic, after):
            return succeed(Answers([found[after + 1 : after + 3]] * 2, 0))

        items, parts = self.listed("certificates", self.responder(ask=ask))
        self.assertEqual((items, parts), (found, 3))
        nobody = self.responder(ask=lambda *_: succeed(Answers((), 2)))
        self.assertEqual(self.listed("certificates", nobody), ([], 1))

    def test_unknown(self):
        """Another listing is refused."""
        self.assert_refused("no listing 'x'", commands.List, listing="x", after="")

    def test_invalid(self):
        """What follows an item that cannot be is refused."""
        for listing in ("sessions", "workers", "certificates"):
            self.assert_refused("follows 'x'", commands.List, listing=listing, after="x")

    def test_maximum(self):
        """The maximum of a part leaves room for what AMP and JSON add."""
        self.assertLess(MAX_LISTING + 1000, 0xFFFF)
        self.assertIsInstance(self.responder(), Responder)
