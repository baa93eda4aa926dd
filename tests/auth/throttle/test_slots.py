"""The slots of concurrent logins, and the queue for them."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.auth.throttle.slots import MAX_QUEUED, LoginAttempt, LoginSlots
from popserv.errors import POPError, TryLater


class SlotsCase(SynchronousTestCase):
    """Has two shared slots; ann is known in network a."""

    def setUp(self):
        """Make the slots."""
        self.disconnected = set()
        self.slots = LoginSlots(lambda *name: name == ("a", b"ann"), max_concurrent=2)

    def acquire(self, network="a", name=b"x"):
        """Start a login; return it, and the Deferred that it waits for."""
        attempt = LoginAttempt(network, name, None, lambda: attempt not in self.disconnected)
        return attempt, self.slots.acquire(attempt)


class SlotsTests(SlotsCase):
    """LoginSlots."""

    def test_queue(self):
        """Logins without a free slot wait, and get slots in order."""
        first, second, third, fourth = [self.acquire() for _ in range(4)]
        self.assertEqual((first[1], second[1]), (None, None))
        self.slots.release(second[0])
        self.assertIsNone(self.successResultOf(third[1]))
        self.assertNoResult(fourth[1])
        self.slots.release(first[0])
        self.assertIsNone(self.successResultOf(fourth[1]))

    def test_waiting_count(self):
        """The logins that wait are counted, those of all networks."""
        self.assertEqual(self.slots.waiting_count, 0)
        first, *_ = [self.acquire(network) for network in "aaaabbb"]
        self.assertEqual(self.slots.waiting_count, 3)
        self.slots.release(first[0])
        self.assertEqual(self.slots.waiting_count, 2)

    def test_networks_are_independent(self):
        """Logins of one network do not wait for another's."""
        for _ in range(3):
            self.acquire()
        self.assertIsNone(self.acquire("b")[1])

    def test_reserved(self):
        """A known name has a reserved slot, which is used if no shared slot is free."""
        self.assertIsNone(self.acquire("a", b"ann")[1])
        self.acquire()
        attempt, waiting = self.acquire("a", b"ann")
        self.assertIsNone(waiting)
        for network, name, waits in [
            ("a", b"ann", True),
            ("a", b"bob", True),
            ("b", b"ann", False),
        ]:
            self.assertEqual(self.acquire(network, name)[1] is not None, waits)
        self.slots.release(attempt)
        self.assertIsNone(self.acquire("a", b"ann")[1])

    def test_cancel(self):
        """A cancelled login fails and leaves the queue."""
        first, _, third, fourth = [self.acquire() for _ in range(4)]
        self.slots.cancel(third[0])
        self.failureResultOf(third[1], POPError)
        self.slots.cancel(third[0])
        self.slots.release(first[0])
        self.assertIsNone(self.successResultOf(fourth[1]))
        self.slots.cancel(fourth[0])
        self.assertIsNotNone(self.acquire()[1])

    def test_disconnected(self):
        """A queued login whose client has disconnected does not get a slot."""
        first, _, third, fourth, fifth, sixth = [self.acquire() for _ in range(6)]
        self.disconnected = {third[0], fourth[0]}
        self.slots.release(first[0])
        for _, waiting in (third, fourth):
            self.failureResultOf(waiting, POPError)
        self.assertIsNone(self.successResultOf(fifth[1]))
        self.disconnected = {sixth[0]}
        self.slots.release(fifth[0])
        self.failureResultOf(sixth[1], POPError)
        self.assertIsNone(self.acquire()[1])

    def test_full(self):
        """A full queue rejects logins, unless the client of its oldest login has disconnected."""
        queue = [self.acquire() for _ in range(2 + MAX_QUEUED)][2:]
        self.assertRaises(TryLater, self.acquire)
        self.assertIsNone(self.acquire("a", b"ann")[1])
        self.assertRaises(TryLater, self.acquire, "a", b"ann")
        self.disconnected = {queue[0][0], queue[2][0]}
        self.assertIsNotNone(self.acquire()[1])
        self.failureResultOf(queue[0][1], POPError)
        self.assertRaises(TryLater, self.acquire)
        self.assertIsNone(self.acquire("b")[1])

    def test_reacquire_when_full(self):
        """A login that reacquires a slot is queued even if the queue is full."""
        (first, _), (second, _) = self.acquire(), self.acquire()
        self.slots.release(first)
        for _ in range(1 + MAX_QUEUED):
            self.acquire()
        waiting = self.slots.reacquire(first)
        for attempt, _ in list(self.slots._queues["a"].items()):
            self.slots.release(second)
            second = attempt
        self.assertIsNone(self.successResultOf(waiting))

    def test_release_twice(self):
        """Releasing a slot again has no effect."""
        (first, _), _, third, fourth = [self.acquire() for _ in range(4)]
        for _ in range(3):
            self.slots.release(first)
        self.successResultOf(third[1])
        self.assertNoResult(fourth[1])

    def test_reacquire(self):
        """A login that has released its slot may acquire it again."""
        attempt, _ = self.acquire()
        for _ in range(5):
            self.slots.release(attempt)
            self.assertIsNone(self.slots.reacquire(attempt))

    def test_long_queue(self):
        """A long queue of logins that end immediately is processed without recursion."""
        first, _ = self.acquire()
        self.acquire()
        served = []

        def finish(_, attempt):
            served.append(attempt)
            self.slots.release(attempt)

        queue = []
        for _ in range(5000):
            attempt = LoginAttempt("a", b"x", None, lambda: True)
            waiting = self.slots.reacquire(attempt)
            waiting.addCallback(finish, attempt)
            queue.append(attempt)
        self.slots.release(first)
        self.assertEqual(served, queue)

    @given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from("ab"))))
    def test_model(self, steps):
        """No more logins run than there are slots, and none waits while a slot is free."""
        slots = LoginSlots(lambda network, name: name < b"2", max_concurrent=2)
        logins = {}
        for n, network in steps:
            if n in logins:
                attempt, waiting = logins.pop(n)
                if attempt.slot is None:
                    slots.cancel(attempt)
                    self.failureResultOf(waiting, POPError)
                else:
                    slots.release(attempt)
            else:
                attempt = LoginAttempt(network, b"%d" % (n % 5), None, lambda: True)
                logins[n] = attempt, slots.reacquire(attempt)
            for each in "ab":
                attempts = [attempt for attempt, _ in logins.values() if attempt.network == each]
                shared = sum(attempt.slot == each for attempt in attempts)
                waiting = sum(attempt.slot is None for attempt in attempts)
                reserved = [attempt.name for attempt in attempts if isinstance(attempt.slot, tuple)]
                self.assertLessEqual(shared, 2)
                self.assertEqual(len(reserved), len(set(reserved)))
                self.assertTrue(all(name < b"2" for name in reserved))
                self.assertTrue(not waiting or shared == 2)
        for attempt, waiting in logins.values():
            slots.cancel(attempt)
            slots.release(attempt)
            if waiting is not None:
                waiting.addErrback(lambda failure: None)
        self.assertEqual(
            (slots._shared_in_use, slots._reserved_in_use, slots._queues), ({}, set(), {})
        )
