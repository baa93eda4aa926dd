"""The rate limit for starting connections of networks that nobody has logged in from."""

from functools import partial

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from popserv.auth.throttle.starts import BURST, INTERVAL, MAX_DELAY, MAX_STARTS, StartQueue
from popserv.transports.networks import parse_network
from tests.auth.throttle.test_login_throttle import ThrottleCase
from tests.commands.harness import REMOTE_PEER, Client


class Arrival:
    """A connection that arrives; its clock refuses a time in the past, as the reactor does."""

    def __init__(self, clock, connected=True):
        self.seconds = clock.seconds
        self._call_later = clock.callLater
        self.connected = connected

    def callLater(self, seconds, function):
        """Schedule a call."""
        assert seconds >= 0
        return self._call_later(seconds, function)

    def is_connected(self):
        """Return whether the client is still connected."""
        return self.connected


class NaiveQueue:
    """What a start queue does, slowly.

    :ivar waiting: pairs of a network and a connection, in the order of their arrival.
    :ivar started: the connections that were started.
    """

    def __init__(self):
        self.waiting, self.started = [], []
        self._turns = []

    def append(self, network, arrival):
        """Let a connection wait."""
        self.waiting.append((network, arrival))
        if network not in self._turns:
            self._turns.append(network)

    def remove(self, arrival):
        """Forget a connection; its network keeps its turn as long as another one waits."""
        self.waiting = [pair for pair in self.waiting if pair[1] is not arrival]
        networks = [network for network, _ in self.waiting]
        self._turns = [network for network in self._turns if network in networks]

    def start(self):
        """Start the next connection."""
        network = self._turns[0]
        arrival = next(arrival for one, arrival in self.waiting if one == network)
        self._turns.append(self._turns.pop(0))
        self.remove(arrival)
        self.started.append(arrival)


class StartQueueTests(SynchronousTestCase):
    """StartQueue."""

    def setUp(self):
        """Make the queue."""
        self.clock = Clock()
        self.clock.advance(1000)
        self.queue = StartQueue()
        self.started = []

    def arrive(self, *names, network="192.0.2.1"):
        """Let connections of a network arrive, and start those that may be; return them all."""
        arrivals = []
        for name in names:
            arrivals.append(Arrival(self.clock))
            if self.queue.may_start(arrivals[-1], network, partial(self.started.append, name)):
                self.started.append(name)
        return arrivals

    def let_fail(self, times):
        """Let logins fail."""
        for _ in range(times):
            self.queue.count(Arrival(self.clock))

    def test_burst(self):
        """A number of connections is started at once, and the others in order, each in its time."""
        names = [*range(BURST + 2)]
        self.arrive(*names)
        self.assertEqual((self.started, len(self.queue)), (names[:BURST], 2))
        for count in (1, 2):
            self.clock.advance(INTERVAL / 2)
            self.assertEqual(len(self.started), BURST + count - 1)
            self.clock.advance(INTERVAL / 2)
            self.assertEqual(len(self.started), BURST + count)
        self.assertEqual((self.started, len(self.queue)), (names, 0))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_numbers(self):
        """The numbers are those of the reference."""
        self.assertEqual((BURST, 1 / INTERVAL, MAX_DELAY, MAX_STARTS), (256, 128, 1 / 64, 8))

    def test_next_burst(self):
        """After a while without connections, as many are started at once again, and no more."""
        self.arrive(*range(BURST))
        for seconds in (BURST * INTERVAL, 1000):
            self.clock.advance(seconds)
            self.started.clear()
            self.arrive(*range(BURST + 1))
            self.assertEqual((len(self.started), len(self.queue)), (BURST, 1))
            self.clock.advance(INTERVAL)

    def test_successes(self):
        """Logins that succeed are not counted, so that any number of users can log in."""
        for _ in range(3 * BURST):
            self.arrive("user")
            self.queue.discount()
        self.arrive(*range(BURST + 1))
        self.assertEqual(len(self.queue), 1)

    def test_turns(self):
        """The networks take turns, and each connection has its turn in the order of arrival."""
        self.arrive(*range(BURST))
        self.started.clear()
        for network, names in (("a", "123"), ("b", "45"), ("a", "6"), ("c", "7")):
            self.arrive(*names, network=network)
        self.clock.pump([INTERVAL] * 4)
        self.assertEqual(self.started, [*"1472"])
        # One whose connections have all been started has no advantage when it comes back.
        self.arrive("8", network="c")
        self.clock.pump([INTERVAL] * 4)
        self.assertEqual(self.started, [*"14725386"])

    def test_flood_of_one_network(self):
        """However many connections of a network wait, that of another one is the second to start.

        So is one of a network whose other connections were lost while they waited.
        """
        self.arrive(*["flood"] * 2 * BURST, network="flooder")
        for _ in range(99):
            self.started.clear()
            self.arrive("flood", "flood", network="flooder")
            lost, _ = self.arrive("lost", "user", network="user")
            self.queue.remove(lost)
            self.clock.pump([INTERVAL] * 2)
            self.assertIn("user", self.started)
            self.assertEqual(len(self.started), 2)

    def test_success_while_others_wait(self):
        """After each success one more of those that wait is started."""
        self.arrive(*range(BURST + 5))
        for _ in range(3):
            self.queue.discount()
        self.clock.advance(INTERVAL)
        self.assertEqual(len(self.queue), 1)
        self.clock.advance(INTERVAL)
        self.assertEqual(len(self.queue), 0)

    def test_failures(self):
        """Failed logins delay the next start, by a limited time however many there are."""
        self.arrive(0)
        self.let_fail(BURST)
        self.arrive(1)
        self.clock.advance(INTERVAL)
        self.assertEqual(self.started, [0])
        self.clock.advance(INTERVAL)
        self.assertEqual(self.started, [0, 1])
        self.let_fail(100 * BURST)
        self.arrive(2)
        self.clock.advance(MAX_DELAY - INTERVAL)
        self.assertEqual(self.started, [0, 1])
        self.clock.advance(INTERVAL)
        self.assertEqual(self.started, [0, 1, 2])

    def test_lost(self):
        """A connection that is lost meanwhile leaves the queue, and holds up no other."""
        arrivals = self.arrive(*range(BURST + 3))
        for each in arrivals[BURST:]:
            self.queue.remove(each)
            self.queue.remove(each)
        self.assertEqual(len(self.queue), 0)
        self.clock.advance(INTERVAL)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        *_, lost, last = self.arrive(*range(100, 103))
        self.queue.remove(lost)
        self.clock.advance(INTERVAL)
        self.assertEqual(self.started, [*range(BURST), 100, 102])
        self.assertTrue(last.is_connected())

    def test_gone(self):
        """A client that is gone is started, so that its connection ends, and is not counted."""
        arrivals = self.arrive(*range(BURST + 4))
        for each in arrivals[BURST : BURST + 3]:
            each.connected = False
        self.clock.advance(INTERVAL)
        self.assertEqual(len(self.started), BURST + 4)

    def test_fault(self):
        """A start that fails does not hold up the others."""
        self.arrive(*range(BURST))
        for start in (lambda: 1 / 0, partial(self.started.append, "next")):
            self.queue.may_start(Arrival(self.clock), "192.0.2.1", start)
        self.assertRaises(ZeroDivisionError, self.clock.advance, INTERVAL)
        self.clock.advance(INTERVAL)
        self.assertEqual(self.started[-1], "next")

    def test_after_a_stall(self):
        """If the reactor was held up, several are started in one turn, but not too many."""
        arrivals = self.arrive(*range(BURST + 2 * MAX_STARTS))
        turns = []

        def call_later(seconds, function):
            assert seconds >= 0
            turns.append(function)

        for each in arrivals:
            each.callLater = call_later
        self.clock.advance(1)
        self.assertEqual(len(turns), MAX_STARTS + 1)
        self.assertEqual(len(self.queue), MAX_STARTS)

    def test_clock_set_back(self):
        """If the clock is set back, nobody waits longer than if many logins had failed."""
        self.arrive(0)
        self.clock.rightNow -= 500
        self.arrive(1)
        self.assertEqual(self.started, [0])
        self.clock.advance(MAX_DELAY)
        self.assertEqual(self.started, [0, 1])

    @given(st.lists(st.sampled_from([0, 0, 0, INTERVAL / 2, INTERVAL, 99 * INTERVAL]), max_size=99))
    def test_rate(self, pauses):
        """In any time, no more connections are started than the rate allows, and all in order."""
        self.setUp()
        starts = []
        arrivals = [pause for pause in pauses for _ in range(9)]
        for number, pause in enumerate(arrivals):
            self.clock.advance(pause)
            name = (number, self.clock.seconds())
            if self.queue.may_start(
                Arrival(self.clock),
                "192.0.2.1",
                lambda name=name: starts.append((*name, self.clock.seconds())),
            ):
                starts.append((*name, self.clock.seconds()))
        while len(self.queue):
            self.clock.advance(INTERVAL / 4)
        self.assertEqual([number for number, _, _ in starts], [*range(len(arrivals))])
        for first, (_, _, since) in enumerate(starts):
            for last in range(first, len(starts)):
                seconds = starts[last][2] - since
                allowed = BURST + seconds / INTERVAL
                self.assertLessEqual(last - first + 1, allowed)
        # None waits longer than if all had come at the same time as the first.
        for number, arrived, at in starts:
            self.assertLessEqual(at - arrived, max(0, number + 1 - BURST) * INTERVAL)

    @given(
        st.lists(
            st.one_of(
                st.tuples(st.just("arrive"), st.sampled_from("aaabcdef")),
                st.tuples(st.sampled_from(["remove", "leave"]), st.integers(0, 99)),
                st.tuples(st.just("wait"), st.integers(1, 3)),
            ),
            max_size=60,
        )
    )
    def test_model(self, events):
        """Whatever arrives, is lost and is gone, the next one to start is that of a naive queue."""
        self.setUp()
        self.arrive(*range(BURST), network="others")
        self.started.clear()
        model, numbers = NaiveQueue(), {}
        for event, value in [*events, ("wait", len(events) + 1)]:
            if event == "arrive":
                (arrival,) = self.arrive(len(numbers), network=value)
                numbers[arrival] = len(numbers)
                model.append(value, arrival)
            elif event == "wait":
                self.clock.pump([INTERVAL] * value)
            elif model.waiting:
                _, arrival = model.waiting[value % len(model.waiting)]
                if event == "remove":
                    self.queue.remove(arrival)
                    model.remove(arrival)
                else:
                    arrival.connected = False
            while len(model.started) < len(self.started):
                model.start()
            self.assertEqual(self.started, [numbers[each] for each in model.started])
            self.assertEqual(len(self.queue), len(model.waiting))
        self.assertEqual((len(self.queue), len(self.queue._turns)), (0, 0))


class ConnectionTests(ThrottleCase):
    """Connections of a server that wait to be started."""

    def occupy(self):
        """Let other clients connect, so that the next one must wait."""
        for number in range(BURST):
            self.connect(peer=IPv4Address("TCP", f"10.0.{number // 250}.{number % 250 + 1}", 4711))
        self.assertEqual(len(self.factory.throttle.starts), 0)

    def test_waits(self):
        """A connection that waits is not greeted, and its commands are answered afterwards."""
        self.occupy()
        client = self.connect(b"NOOP", b"USER ann")
        self.assertEqual(client.greeting, b"")
        self.assertEqual(client.transport.producerState, "paused")
        self.assertEqual(client.received(), b"")
        self.clock.advance(INTERVAL)
        self.assertEqual(
            client.received(), b"+OK POP3 server ready\r\n-ERR log in first\r\n+OK send PASS\r\n"
        )
        self.assertEqual(client.transport.producerState, "producing")
        self.assertIn(b"+OK ann's maildrop", client.send(b"PASS pw\r\n"))

    def test_known_networks(self):
        """Connections of known networks and of trusted ones do not wait."""
        self.connect(b"USER ann", b"PASS pw").send(b"QUIT\r\n")
        self.factory.networks = type(self.factory.networks)([parse_network("203.0.113.0/24")])
        self.occupy()
        self.assertIn(b"+OK", self.connect().greeting)
        self.assertIn(b"+OK", self.connect(peer=IPv4Address("TCP", "203.0.113.9", 4711)).greeting)
        self.assertEqual(self.connect(peer=IPv4Address("TCP", "203.0.114.9", 4711)).greeting, b"")
        self.clock.advance(24 * 60 * 60)
        self.clock.advance(1)
        self.occupy()
        self.assertEqual(self.connect().greeting, b"")

    def test_login(self):
        """The start of a connection is discounted when its login succeeds; later ones do not count.

        A failed login counts like another connection, unless the network is known.
        """
        starts = self.factory.throttle.starts
        before = starts._clear_at
        for _ in range(2):
            client = self.connect(b"USER ann", b"PASS pw")
            client.send(b"QUIT\r\n")
            client.lose()
        self.assertEqual(max(starts._clear_at, before), before)
        before = starts._clear_at = self.clock.seconds()
        peer = IPv4Address("TCP", "198.51.100.7", 4711)
        client = self.connect(b"USER ann", b"PASS wrong", peer=peer)
        self.assertAlmostEqual(starts._clear_at - before, 2 * INTERVAL)
        self.clock.advance(2)
        self.connect(b"USER ann", b"PASS wrong")
        self.assertLess(starts._clear_at, self.clock.seconds())

    def test_login_after_stls(self):
        """A login after STLS discounts the start of its connection, counted before STLS."""
        self.serve(tls="context")
        starts = self.factory.throttle.starts
        before = starts._clear_at = self.clock.seconds()
        client = self.connect()
        client.start_tls()
        self.assertEqual(starts._clear_at - before, INTERVAL)
        client.send(b"USER ann\r\nPASS pw\r\n")
        self.assertEqual(starts._clear_at, before)

    def test_disconnected(self):
        """A connection that was lost meanwhile is not started, and the others are."""
        self.occupy()
        first, second = self.connect(), self.connect()
        first.lose()
        self.clock.advance(2 * INTERVAL)
        self.assertEqual((first.received(), second.received()[:3]), (b"", b"+OK"))

    def test_lost_while_waiting(self):
        """A connection that is lost leaves the queue at once."""
        self.occupy()
        client = self.connect(b"USER ann")
        self.assertEqual(len(self.factory.throttle.starts), 1)
        client.lose()
        self.assertEqual(len(self.factory.throttle.starts), 0)

    def test_half_closed(self):
        """A client that closes its sending side is answered, if it has sent anything."""
        self.occupy()
        silent, other = self.connect(), self.connect(b"NOOP")
        for each in (silent, other):
            each.server.readConnectionLost()
        self.assertEqual((silent.closed, other.closed), (True, False))
        silent.lose()
        self.clock.advance(INTERVAL)
        self.assertEqual(
            (silent.received(), other.received()),
            (b"", b"+OK POP3 server ready\r\n-ERR log in first\r\n"),
        )
        self.assertTrue(other.closed)

    def test_time_and_age(self):
        """The idle timer and the age of a connection, for eviction, begin at its start."""
        self.occupy()
        first, second = self.connect(), self.connect()
        # Nothing is started while this clock stands still.
        self.clock.rightNow += 599
        first.server._start_later()
        self.assertEqual(first.server.idle_seconds(), 0)
        order = [*iter(self.factory.connections)]
        self.assertEqual(order[-2:], [second.server, first.server])

    def test_over_tls(self):
        """A TLS handshake is not read before the connection is started."""
        self.occupy()
        client = Client(self.factory, REMOTE_PEER, tls=True, handshake=False, clock=self.clock)
        self.addCleanup(client.lose)
        self.assertEqual((client.transport.producerState, client.received()), ("paused", b""))
        self.clock.advance(INTERVAL)
        self.assertEqual((client.transport.producerState, client.received()), ("producing", b""))
        client.server.handshakeCompleted()
        self.assertEqual(client.received(), b"+OK POP3 server ready\r\n")
