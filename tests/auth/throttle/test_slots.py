"""A few logins of one network at a time."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.auth.throttle.slots import MAX_QUEUED, LoginAttempt, LoginSlots
from popserv.errors import POPError, TryLater


class TurnsCase(SynchronousTestCase):
    """ann is known in network a."""

    def setUp(self):
        """Two places."""
        self.gone = set()
        self.turns = LoginSlots(lambda *name: name == ("a", b"ann"), at_once=2)

    def begin(self, network="a", name=b"x"):
        """Return a turn, and what it waits for."""
        turn = LoginAttempt(network, name, None, lambda: turn not in self.gone)
        return turn, self.turns.enter(turn)


class TurnsTests(TurnsCase):
    """Turns."""

    def test_line(self):
        """Beyond the places logins wait, and get theirs in order."""
        first, second, third, fourth = [self.begin() for _ in range(4)]
        self.assertEqual((first[1], second[1]), (None, None))
        self.turns.end(second[0])
        self.assertIsNone(self.successResultOf(third[1]))
        self.assertNoResult(fourth[1])
        self.turns.end(first[0])
        self.assertIsNone(self.successResultOf(fourth[1]))

    def test_networks_are_apart(self):
        """No network waits for another."""
        for _ in range(3):
            self.begin()
        self.assertIsNone(self.begin("b")[1])

    def test_known(self):
        """A known name has one place more, of its own, if there is no other."""
        self.assertIsNone(self.begin("a", b"ann")[1])
        self.begin()
        own, waiting = self.begin("a", b"ann")
        self.assertIsNone(waiting)
        for network, name, waits in [
            ("a", b"ann", True),
            ("a", b"bob", True),
            ("b", b"ann", False),
        ]:
            self.assertEqual(self.begin(network, name)[1] is not None, waits)
        self.turns.end(own)
        self.assertIsNone(self.begin("a", b"ann")[1])

    def test_leave(self):
        """Who leaves the line is told so, and nobody waits for them."""
        first, _, third, fourth = [self.begin() for _ in range(4)]
        self.turns.leave(third[0])
        self.failureResultOf(third[1], POPError)
        self.turns.leave(third[0])
        self.turns.end(first[0])
        self.assertIsNone(self.successResultOf(fourth[1]))
        self.turns.leave(fourth[0])
        self.assertIsNotNone(self.begin()[1])

    def test_gone(self):
        """Whose client has gone when the turn comes is passed over."""
        first, _, third, fourth, fifth, sixth = [self.begin() for _ in range(6)]
        self.gone = {third[0], fourth[0]}
        self.turns.end(first[0])
        for _, waiting in (third, fourth):
            self.failureResultOf(waiting, POPError)
        self.assertIsNone(self.successResultOf(fifth[1]))
        self.gone = {sixth[0]}
        self.turns.end(fifth[0])
        self.failureResultOf(sixth[1], POPError)
        self.assertIsNone(self.begin()[1])

    def test_full(self):
        """The line has an end; if the first in it has gone there is room for one more."""
        line = [self.begin() for _ in range(2 + MAX_QUEUED)][2:]
        self.assertRaises(TryLater, self.begin)
        self.assertIsNone(self.begin("a", b"ann")[1])
        self.assertRaises(TryLater, self.begin, "a", b"ann")
        self.gone = {line[0][0], line[2][0]}
        self.assertIsNotNone(self.begin()[1])
        self.failureResultOf(line[0][1], POPError)
        self.assertRaises(TryLater, self.begin)
        self.assertIsNone(self.begin("b")[1])

    def test_full_for_the_new(self):
        """Who has been in, and asked the client something, waits even in a full line."""
        (first, _), (second, _) = self.begin(), self.begin()
        self.turns.end(first)
        for _ in range(1 + MAX_QUEUED):
            self.begin()
        waiting = self.turns.begin(first)
        for turn, _ in list(self.turns._lines["a"].items()):
            self.turns.end(second)
            second = turn
        self.assertIsNone(self.successResultOf(waiting))

    def test_end_twice(self):
        """A place is taken back once, however often the turn is ended."""
        (first, _), _, third, fourth = [self.begin() for _ in range(4)]
        for _ in range(3):
            self.turns.end(first)
        self.successResultOf(third[1])
        self.assertNoResult(fourth[1])

    def test_again(self):
        """A turn that was ended may begin once more."""
        turn, _ = self.begin()
        for _ in range(5):
            self.turns.end(turn)
            self.assertIsNone(self.turns.begin(turn))

    def test_long_line(self):
        """A line of logins that are over at once is worked off without recursion."""
        first, _ = self.begin()
        self.begin()
        served = []

        def over(_, turn):
            served.append(turn)
            self.turns.end(turn)

        line = []
        for _ in range(5000):
            turn = LoginAttempt("a", b"x", None, lambda: True)
            waiting = self.turns.begin(turn)
            waiting.addCallback(over, turn)
            line.append(turn)
        self.turns.end(first)
        self.assertEqual(served, line)

    @given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from("ab"))))
    def test_model(self, steps):
        """No more are under way than there are places, and nobody waits beside a free one."""
        turns = LoginSlots(lambda network, name: name < b"2", at_once=2)
        there = {}
        for n, network in steps:
            if n in there:
                turn, waiting = there.pop(n)
                if turn.place is None:
                    turns.leave(turn)
                    self.failureResultOf(waiting, POPError)
                else:
                    turns.end(turn)
            else:
                turn = LoginAttempt(network, b"%d" % (n % 5), None, lambda: True)
                there[n] = turn, turns.begin(turn)
            for each in "ab":
                its = [turn for turn, _ in there.values() if turn.network == each]
                common = sum(turn.place == each for turn in its)
                waiting = sum(turn.place is None for turn in its)
                own = [turn.name for turn in its if isinstance(turn.place, tuple)]
                self.assertLessEqual(common, 2)
                self.assertEqual(len(own), len(set(own)))
                self.assertTrue(all(name < b"2" for name in own))
                self.assertTrue(not waiting or common == 2)
        for turn, waiting in there.values():
            turns.leave(turn)
            turns.end(turn)
            if waiting is not None:
                waiting.addErrback(lambda failure: None)
        self.assertEqual((turns._taken, turns._own, turns._lines), ({}, set(), {}))
