"""The slots of concurrent logins, and the queue for them."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.auth.throttle.slots import MAX_QUEUED, LoginAttempt, LoginSlots
from popserv.errors import POPError, TryLater


class SlotsCase(SynchronousTestCase):
    """Has two shared slots; ann is known in network a, and so is the secret 7."""

    def setUp(self):
        """Make the slots."""
        self.disconnected = set()
        self.known_secrets = {("a", 7)}
        self.slots = LoginSlots(
            lambda *name: name == ("a", b"ann"), self.known_secret_hash, max_concurrent=2
        )

    def known_secret_hash(self, network, name, secret):
        """Return the secret, if it is known."""
        return secret if (network, secret) in self.known_secrets else None

    def acquire(self, network="a", name=b"x", secret=None):
        """Start a login; return it, and the Deferred that it waits for."""
        attempt = LoginAttempt(network, name, secret, lambda: attempt not in self.disconnected)
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

    def test_reserved_for_secret(self):
        """A known secret has a reserved slot, besides that of its name."""
        for _ in range(2):
            self.acquire()
        attempts = []
        for network, name, secret, waits in [
            ("a", b"ann", 8, False),
            ("a", b"ann", 8, True),
            ("a", b"ann", 7, False),
            ("a", b"ann", 7, True),
            ("a", b"x", 7, True),
        ]:
            attempt, waiting = self.acquire(network, name, secret)
            self.assertEqual(waiting is not None, waits)
            attempts.append(attempt)
        self.slots.release(attempts[0])
        self.assertIsNone(self.acquire("a", b"ann", 7)[1])
        self.slots.release(attempts[2])
        self.assertIsNone(self.acquire("a", b"bob", 7)[1])

    def extra(self, network="a"):
        """Return a login with an extra slot."""
        attempt = LoginAttempt(network, b"x", None, lambda: True)
        self.slots.take_extra(attempt)
        return attempt

    def test_extra(self):
        """A login can be given a slot above the maximum; the logins in the queue do not wait."""
        first, second, third, fourth, fifth = [self.acquire() for _ in range(5)]
        extra = [self.extra() for _ in range(2)]
        self.slots.release(extra[0])
        self.assertNoResult(third[1])
        self.slots.release(first[0])
        self.assertIsNone(self.successResultOf(third[1]))
        self.slots.release(second[0])
        self.assertIsNone(self.successResultOf(fourth[1]))
        self.slots.release(extra[1])
        self.assertNoResult(fifth[1])
        self.slots.release(fourth[0])
        self.assertIsNone(self.successResultOf(fifth[1]))
        self.assertEqual((self.slots._shared_in_use, self.slots._extra_in_use), ({"a": 2}, {}))

    def test_extra_only(self):
        """Extra slots hold up new logins; each that is released lets one in, up to the maximum."""
        extra = [self.extra() for _ in range(5)]
        queue = [self.acquire() for _ in range(3)]
        self.assertIsNone(self.acquire("b")[1])
        for n, (_, waiting) in enumerate(queue[:2]):
            self.assertNoResult(waiting)
            self.extra()
            self.slots.release(extra[n])
            self.assertIsNone(self.successResultOf(waiting))
        for attempt in extra[2:]:
            self.slots.release(attempt)
        self.assertNoResult(queue[2][1])
        self.assertEqual(
            (self.slots._shared_in_use, self.slots._extra_in_use), ({"a": 2, "b": 1}, {"a": 2})
        )

    def test_extra_and_shared(self):
        """Both kinds count for new logins."""
        self.extra()
        self.assertIsNone(self.acquire()[1])
        self.assertIsNone(self.acquire("a", b"ann")[1])
        self.assertIsNotNone(self.acquire()[1])

    def test_extra_before_single(self):
        """A login that waits for an extra slot gets the only shared one when that is released."""
        self.slots = LoginSlots(lambda *name: False, lambda *secret: None, max_concurrent=1)
        extra = self.extra()
        _, waiting = self.acquire()
        self.slots.release(extra)
        self.assertIsNone(self.successResultOf(waiting))

    def test_exchange(self):
        """A login with a secret that is not known any more waits as if it never was."""
        (first, _), (second, _) = self.acquire(), self.acquire()
        (named, _), (secret, _) = self.acquire("a", b"ann"), self.acquire("a", b"ann", 7)
        self.known_secrets.clear()
        for attempt in (first, named):
            slot = attempt.slot
            self.assertIsNone(self.slots.give_up_secret(attempt))
            self.assertEqual(attempt.slot, slot)
        waiting = self.slots.give_up_secret(secret)
        self.assertNoResult(waiting)
        self.assertEqual(self.slots._reserved_in_use, {("a", b"ann")})
        self.slots.release(second)
        self.assertIsNone(self.successResultOf(waiting))
        self.assertEqual(secret.slot, "a")
        suspended = LoginAttempt("a", b"x", None, lambda: True)
        self.assertIsNone(self.slots.give_up_secret(suspended))

    def test_exchange_at_once(self):
        """It does not wait if the slot of its name is free."""
        for _ in range(2):
            self.acquire()
        attempt, _ = self.acquire("a", b"ann", 7)
        self.known_secrets.clear()
        self.assertIsNone(self.slots.give_up_secret(attempt))
        self.assertEqual(attempt.slot, ("a", b"ann"))

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

    @given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from("ab"), st.booleans())))
    def test_model(self, steps):
        """No more logins run than there are slots, and none waits while a slot is free.

        With extra slots, which may be more, a login may wait while a shared one is free.
        """
        slots = LoginSlots(
            lambda network, name: name < b"2",
            lambda network, name, secret: secret if secret < 3 else None,
            max_concurrent=2,
        )
        logins = {}
        for n, network, is_extra in steps:
            if n in logins:
                attempt, waiting = logins.pop(n)
                if attempt.slot is None:
                    slots.cancel(attempt)
                    self.failureResultOf(waiting, POPError)
                else:
                    slots.release(attempt)
            elif is_extra:
                attempt = LoginAttempt(network, b"9", 9, lambda: True)
                slots.take_extra(attempt)
                logins[n] = attempt, None
            else:
                attempt = LoginAttempt(network, b"%d" % (n % 5), n % 7, lambda: True)
                logins[n] = attempt, slots.reacquire(attempt)
            for each in "ab":
                attempts = [attempt for attempt, _ in logins.values() if attempt.network == each]
                shared = sum(attempt.slot == each for attempt in attempts)
                waiting = sum(attempt.slot is None for attempt in attempts)
                reserved = [
                    attempt.slot[1] for attempt in attempts if isinstance(attempt.slot, tuple)
                ]
                names = [key for key in reserved if isinstance(key, bytes)]
                secrets = [key for key in reserved if isinstance(key, int)]
                extra = sum(attempt.slot == (each, None) for attempt in attempts)
                self.assertEqual(slots._shared_in_use.get(each, 0), shared)
                self.assertEqual(slots._extra_in_use.get(each, 0), extra)
                self.assertLessEqual(shared, 2)
                for keys, limit in ((names, b"2"), (secrets, 3)):
                    self.assertEqual(len(keys), len(set(keys)))
                    self.assertTrue(all(key < limit for key in keys))
                self.assertTrue(not waiting or shared + extra >= 2)
        for attempt, waiting in logins.values():
            slots.cancel(attempt)
            slots.release(attempt)
            if waiting is not None:
                waiting.addErrback(lambda failure: None)
        self.assertEqual(
            (slots._shared_in_use, slots._extra_in_use, slots._reserved_in_use, slots._queues),
            ({}, {}, set(), {}),
        )
