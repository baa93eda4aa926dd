"""What workers tell each other."""

from twisted.trial.unittest import SynchronousTestCase

from popserv.runtime.bus import WorkerBus


class Book:
    """A listener that writes down what it hears."""

    def __init__(self, *facts):
        self.known = list(facts)

    def receive(self, fact):
        """Write it down."""
        self.known.append(fact)

    def replay(self):
        """Return everything."""
        return list(self.known)


class ExchangeTests(SynchronousTestCase):
    """Facts go from each worker to the others, by topic."""

    def setUp(self):
        """Note what is carried."""
        self.carried = []
        self.bus = WorkerBus(lambda topic, fact: self.carried.append((topic, fact)))

    def test_tell(self):
        """What is told is carried to the others."""
        self.bus.publish("colours", ["red", 1])
        self.assertEqual(self.carried, [("colours", ["red", 1])])

    def test_alone(self):
        """A server of one process tells nobody."""
        WorkerBus().publish("colours", "red")
        self.assertEqual(self.carried, [])

    def test_hear(self):
        """A fact reaches the listener of its topic alone; of unknown topics, nobody."""
        colours, tastes = Book(), Book()
        self.bus.subscribe("colours", colours)
        self.bus.subscribe("tastes", tastes)
        self.bus.receive("colours", "red")
        self.bus.receive("sounds", "loud")
        self.assertEqual((colours.known, tastes.known), (["red"], []))

    def test_tell_all(self):
        """A worker that has just begun is told everything that the listeners know."""
        self.bus.subscribe("colours", Book("red", "blue"))
        self.bus.subscribe("tastes", Book("sweet"))
        telling = self.bus.replay_all()
        next(telling)
        self.assertEqual(len(self.carried), 1)
        list(telling)
        self.assertEqual(
            self.carried, [("colours", "red"), ("colours", "blue"), ("tastes", "sweet")]
        )
