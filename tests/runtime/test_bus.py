"""Tests of popserv.runtime.bus."""

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from popserv.runtime.bus import Answers, WorkerBus


class UpdateList:
    """A subscriber that keeps all updates."""

    def __init__(self, *updates):
        self.updates = list(updates)

    def receive(self, update, offset):
        """Keep an update."""
        self.updates.append(update)
        self.offset = offset

    def replay(self):
        """Return all updates."""
        return list(self.updates)


class WorkerBusTests(SynchronousTestCase):
    """Updates go from each worker to the subscribers in the others, by topic."""

    def setUp(self):
        """Make a bus that records what it sends."""
        self.sent = []
        self.bus = WorkerBus(lambda topic, update: self.sent.append((topic, update)))

    def test_publish(self):
        """A published update is sent to the other workers."""
        self.bus.publish("colours", ["red", 1])
        self.assertEqual(self.sent, [("colours", ["red", 1])])

    def test_carry(self):
        """A published update is also sent wherever else they are carried."""
        carried = []
        self.bus.carry(lambda *update: carried.append(update))
        self.bus.publish("colours", "red")
        self.assertEqual(carried, [("colours", "red")])
        self.assertEqual(self.sent, carried)

    def test_one_process(self):
        """In a server of one process, updates go nowhere."""
        WorkerBus().publish("colours", "red")
        self.assertEqual(self.sent, [])

    def test_receive(self):
        """An update reaches the subscriber of its topic only; unknown topics are ignored."""
        colours, tastes = UpdateList(), UpdateList()
        self.bus.subscribe("colours", colours)
        self.bus.subscribe("tastes", tastes)
        self.bus.receive("colours", "red")
        self.bus.receive("sounds", "loud")
        self.assertEqual((colours.updates, tastes.updates), (["red"], []))
        self.assertEqual(colours.offset, 0)
        self.bus.receive("colours", "blue", -5.5)
        self.assertEqual((colours.updates, colours.offset), (["red", "blue"], -5.5))

    def test_replay_all(self):
        """The updates of all subscribers are published for a new worker, one at each step."""
        self.bus.subscribe("colours", UpdateList("red", "blue"))
        self.bus.subscribe("tastes", UpdateList("sweet"))
        steps = self.bus.replay_all()
        next(steps)
        self.assertEqual(len(self.sent), 1)
        list(steps)
        self.assertEqual(self.sent, [("colours", "red"), ("colours", "blue"), ("tastes", "sweet")])


class QuestionTests(SynchronousTestCase):
    """Questions go to all other workers, and are answered by the function of their topic."""

    def test_one_process(self):
        """In a server of one process, there is no other worker to ask."""
        self.assertEqual(
            self.successResultOf(WorkerBus().ask_others("colours", "?")), Answers((), 0)
        )

    def test_ask_others(self):
        """A question is passed on with its time limit, two seconds unless it has another."""
        asked = []
        bus = WorkerBus(ask=lambda *question: asked.append(question) or "answers")
        self.assertEqual(bus.ask_others("colours", "?"), "answers")
        bus.ask_others("colours", "?", 7)
        self.assertEqual(asked, [("colours", "?", 2.0), ("colours", "?", 7)])

    def test_ask_here(self):
        """This process answers as one of the others would, now or later."""
        bus, waiting = WorkerBus(), Deferred()
        bus.answer("double", lambda number: 2 * number)
        bus.answer("later", lambda question: waiting)
        self.assertEqual(self.successResultOf(bus.ask_here("double", 4)), Answers((8,), 0))
        later = bus.ask_here("later", None)
        self.assertNoResult(later)
        waiting.callback("yes")
        self.assertEqual(self.successResultOf(later), Answers(("yes",), 0))

    def test_error(self):
        """A question that cannot be answered is logged, and its answer is missing."""
        bus = WorkerBus()
        bus.answer("divide", lambda number: 1 // number)
        for topic, kind in (("divide", ZeroDivisionError), ("unknown", KeyError)):
            self.assertEqual(self.successResultOf(bus.ask_here(topic, 0)), Answers((), 1))
            self.assertEqual(len(self.flushLoggedErrors(kind)), 1)
