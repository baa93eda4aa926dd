"""Tests of popserv.runtime.bus."""

from twisted.trial.unittest import SynchronousTestCase

from popserv.runtime.bus import WorkerBus


class UpdateList:
    """A subscriber that keeps all updates."""

    def __init__(self, *updates):
        self.updates = list(updates)

    def receive(self, update):
        """Keep an update."""
        self.updates.append(update)

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

    def test_replay_all(self):
        """The updates of all subscribers are published for a new worker, one at each step."""
        self.bus.subscribe("colours", UpdateList("red", "blue"))
        self.bus.subscribe("tastes", UpdateList("sweet"))
        steps = self.bus.replay_all()
        next(steps)
        self.assertEqual(len(self.sent), 1)
        list(steps)
        self.assertEqual(self.sent, [("colours", "red"), ("colours", "blue"), ("tastes", "sweet")])
