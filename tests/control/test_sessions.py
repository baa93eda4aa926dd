"""What is known of the connections of a process, and how they are ended."""

import os

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import alsoProvides

from popserv.control import sessions
from popserv.control.sessions import Sessions, order_of
from popserv.transports.peers import ITLSAtProxy
from tests.control.harness import ControlMixin

FIRST = (os.getpid(), 0)
LOCKED = b"-ERR [IN-USE] maildrop already locked\r\n"
ENDED = b"-ERR [SYS/TEMP] the server has ended your session, try again later\r\n"


class SessionsTestCase(ControlMixin, SynchronousTestCase):
    """The connections of a process."""

    def setUp(self):
        """Create the server."""
        super().setUp()
        self.sessions = Sessions(self.connections, now=lambda: self.now)
        self.now = 0

    def one(self):
        """Return the only connection that is listed."""
        (listed,) = self.sessions.listed(FIRST)["sessions"]
        return listed


class ListedTests(SessionsTestCase):
    """What is listed of a connection."""

    def test_session(self):
        """A session shows who is logged in from where and how, since when, and what was sent."""
        client = self.logged_in("ann", b"RETR 1", b"RETR 1")
        self.now = client.server.events.login_time + 61.26
        client.clock.advance(30)
        self.assertEqual(
            self.one(),
            {
                "id": f"{os.getpid()}.1",
                "user": "ann",
                "address": "127.0.0.1:54321",
                "tls": None,
                "method": "PASS",
                "state": "TRANSACTION",
                "age": 61.3,
                "idle": 30.0,
                "messages": 2,
                "octets": 10,
            },
        )

    def test_not_logged_in(self):
        """A client that has not logged in has neither user nor method nor age."""
        client = self.connect()
        client.clock.advance(7)
        listed = self.one()
        self.assertEqual(
            [listed[name] for name in ("user", "method", "age", "state", "idle")],
            [None, None, None, "AUTHORIZATION", 7.0],
        )

    def test_failed_login(self):
        """A client that has tried to log in shows the name that it gave."""
        self.connect(b"USER eve", b"PASS wrong")
        self.assertEqual((self.one()["user"], self.one()["method"]), ("eve", None))

    def test_tls(self):
        """The version of TLS is shown, or that the proxy has it."""
        client = self.logged_in()
        client.server.tls_version = lambda: "TLSv1.3"
        self.assertEqual(self.one()["tls"], "TLSv1.3")
        client.server.tls_version = lambda: None
        self.assertEqual(self.one()["tls"], None)
        alsoProvides(client.transport, ITLSAtProxy)
        self.assertEqual(self.one()["tls"], "proxy")

    def test_printable(self):
        """A name is shown printable, in one line, and with 200 characters at most."""
        self.connect().server.session.name = b"\x1b[2J\xff" + b"x" * 300
        name = self.one()["user"]
        self.assertTrue(name.startswith("\\x1b[2J\\xffxx") and name.isprintable(), name)
        self.assertLessEqual(len(name), 200)

    def test_order(self):
        """Connections are in the order in which they came; no number is given twice."""
        clients = [self.connect() for _ in range(3)]
        self.assertEqual(self.ids(), [1, 2, 3])
        clients[0].lose()
        self.logged_in()
        self.assertEqual(self.ids(), [2, 3, 4])
        self.assertEqual(self.ids((os.getpid(), 2)), [3, 4])

    def test_other_process(self):
        """If another process is asked, nothing but the process ID is told."""
        self.connect()
        for pid in (0, os.getpid() + 1):
            self.assertEqual(self.sessions.listed((pid, 0)), {"pid": os.getpid()})

    def test_parts(self):
        """At most MAX_ITEMS connections are listed at once."""
        self.patch(sessions, "MAX_ITEMS", 2)
        for _ in range(5):
            self.connect()
        self.assertEqual(self.ids(), [1, 2])
        self.assertEqual(self.ids((os.getpid(), 2)), [3, 4])
        self.assertEqual(self.ids((os.getpid(), 4)), [5])

    def test_others(self):
        """What waits for the header of a proxy is not listed."""
        self.connections.add_waiting(SimpleNamespaceWithHash(), "waiting")
        self.assertEqual((self.ids(), self.sessions.kick("")), ([], 0))

    def ids(self, after=FIRST):
        """Return the numbers of the connections that are listed."""
        return [order_of(each["id"])[1] for each in self.sessions.listed(after)["sessions"]]


class FirstTests(SessionsTestCase):
    """The connections that are listed if not all can be."""

    def users(self, maximum):
        """Return the users of the first connections."""
        return [each["user"] for each in self.sessions.first(maximum)]

    def test_order(self):
        """Those that are logged in come first, each in the order of the IDs."""
        self.connect(b"USER eve", b"PASS wrong")
        self.logged_in("ann")
        self.connect()
        self.logged_in("b\u00f6b")
        for maximum, users in (
            (0, []),
            (1, ["ann"]),
            (3, ["ann", "b\u00f6b", "eve"]),
            (9, ["ann", "b\u00f6b", "eve", None]),
        ):
            self.assertEqual(self.users(maximum), users)

    def test_same(self):
        """They have the same IDs and the same fields as in the whole listing."""
        for _ in range(3):
            self.connect()
        self.assertEqual(self.sessions.first(3), self.sessions.listed(FIRST)["sessions"])


class SimpleNamespaceWithHash:
    """Something else among the connections."""


class KickTests(SessionsTestCase):
    """How connections are ended."""

    def assert_locked(self, is_locked):
        """Check whether the maildrop of ann is locked, by a login."""
        self.assertEqual(b"ann" in self.store.locked, is_locked)

    def test_idle(self):
        """An idle client is told; its maildrop is free at once, and nothing is removed."""
        client = self.logged_in("ann", b"DELE 1")
        self.assertEqual(self.sessions.kick("ann"), 1)
        self.assertEqual(client.received(), ENDED)
        self.assertTrue(client.closed)
        self.assert_locked(False)
        self.assertEqual(len(self.logged_in().server.session.mailbox.messages), 1)
        self.assertIn("by the administrator", "\n".join(self.log_lines()))

    def test_end_once(self):
        """The end of a session is logged once, whenever the connection is lost."""
        client = self.logged_in()
        self.sessions.kick("ann")
        client.lose()
        self.assertEqual("\n".join(self.log_lines()).count("session of"), 1)

    def test_no_commands(self):
        """Commands that arrive after the end are not carried out."""
        client = self.logged_in()
        self.sessions.kick("ann")
        client.received()
        self.assertEqual(client.send(b"DELE 1\r\nQUIT\r\n"), b"")

    def test_busy(self):
        """The connection of a client that waits for something is aborted."""
        client = self.logged_in()
        client.server.command_pending = True
        self.assertEqual(self.sessions.kick("ann"), 1)
        self.assertTrue(client.transport.aborted)
        self.assertEqual(client.received(), b"")

    def test_closing(self):
        """So is that of one that is being closed already."""
        client = self.logged_in()
        client.server.close()
        self.sessions.kick("ann")
        self.assertTrue(client.transport.aborted)

    def test_users(self):
        """A user is named as in the listing, or as the client did; others stay."""
        for whom in ("b\u00f6b", "B\u00d6B"):
            clients = [self.logged_in(name) for name in ("ann", "b\u00f6b")]
            self.assertEqual(self.sessions.kick(whom), int(whom.islower()))
            for client in clients:
                client.lose()
        self.connect().server.session.name = b'a"\xff'
        self.assertEqual(self.sessions.kick('a\\"\\xff'), 1)

    def test_no_user(self):
        """A client that has not given a name has none, not an empty one."""
        client = self.connect()
        self.assertEqual(self.sessions.kick(""), 0)
        self.assertFalse(client.closed)

    def test_addresses(self):
        """An address or a network ends all connections from there, logged in or not."""
        for peer, whom, other in [
            (IPv4Address("TCP", "192.0.2.1", 1234), "192.0.2.1", "192.0.2.2"),
            (IPv4Address("TCP", "192.0.2.1", 1234), "192.0.2.0/24", "192.0.3.0/24"),
            (IPv6Address("TCP", "2001:db8::1", 1234), "2001:DB8:0::1", "2001:db8::2"),
            (IPv6Address("TCP", "::ffff:192.0.2.1", 1234), "192.0.2.1", "192.0.2.2"),
            (IPv4Address("TCP", "192.0.2.1", 1234), "::ffff:192.0.2.1", "::ffff:192.0.2.2"),
            (IPv4Address("TCP", "192.0.2.1", 1234), "192.0.2.77/24", "192.0.3.77/24"),
            (IPv6Address("TCP", "2001:db8::1", 1234), "2001:db8::77/64", "2001:db8:0:1::/64"),
            (IPv6Address("TCP", "fe80::1%eth0", 1234), "fe80::1", "fe80::2"),
        ]:
            clients = [self.connect(peer=peer), self.logged_in(peer=peer)]
            self.assertEqual([self.sessions.kick(each) for each in (other, whom)], [0, 2], whom)
            for client in clients:
                client.lose()

    def test_unix_socket(self):
        """A client of a UNIX socket has no address."""
        client = self.connect(peer=UNIXAddress(None))
        self.assertEqual(self.sessions.kick("0.0.0.0/0"), 0)
        client.lose()

    def test_ids(self):
        """An ID of the listing ends that connection, and no other one."""
        first, second = self.connect(), self.connect()
        identifier = self.sessions.listed(FIRST)["sessions"][1]["id"]
        for whom, number in ((f"1{identifier}", 0), (identifier, 1), (identifier, 1)):
            self.assertEqual(self.sessions.kick(whom), number)
        second.lose()
        self.assertEqual(self.sessions.kick(identifier), 0)
        self.assertFalse(first.closed)


class CountTests(SessionsTestCase):
    """What is counted of connections."""

    def test_counts(self):
        """All connections and logins are counted, also those that have ended."""
        self.logged_in().lose()
        self.connect()
        self.logged_in()
        counts = self.connections
        self.assertEqual(
            (len(counts), counts.authenticated_count, counts.accepted, counts.logins),
            (2, 1, 3, 2),
        )

    def test_removed(self):
        """Nothing is kept of connections that have ended, or were never added."""
        client = self.logged_in()
        client.lose()
        self.connections.remove(client.server)
        self.connections.remove(SimpleNamespaceWithHash())
        counts = self.connections
        self.assertEqual((counts.by_number, counts._numbers, len(counts)), ({}, {}, 0))


class OrderTests(SynchronousTestCase):
    """The order of listings."""

    def test_order(self):
        """IDs are ordered by process and number, and the start is before all of them."""
        self.assertEqual(
            sorted(["10.2", "9.11", "", "9.2", "9.0"], key=order_of),
            ["", "9.0", "9.2", "9.11", "10.2"],
        )

    def test_invalid(self):
        """Anything else is an error."""
        for text in ("x", "1", "1.x", "1.2.3"):
            with self.assertRaises(ValueError, msg=text):
                order_of(text)
