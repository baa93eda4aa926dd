"""What the plots show."""

from twisted.trial.unittest import SynchronousTestCase

from popserv.metrics import catalogue
from popserv.metrics.catalogue import Kind
from popserv.metrics.counters import Counters
from popserv.status_page.rates import DESCRIPTIONS, make_history, measure, plots


class RatesTests(SynchronousTestCase):
    """From metrics to plots."""

    def setUp(self):
        """Create counters and a history."""
        self.counters = Counters()
        self.history = make_history()

    def sample(self, seconds, **gauges):
        """Add a sample."""
        values = {f"popserv_{name}": {(): value} for name, value in gauges.items()}
        self.history.add(seconds, measure({**self.counters.samples, **values}))

    def newest(self):
        """Return the newest value of each line, by the names of the plot and the line."""
        return {
            (plot.name, series.label): series.newest()
            for plot in plots(self.history, 10)
            for series in plot.series
        }

    def test_lines(self):
        """Gauges are shown as they are, and of counters what is added in a time."""
        self.sample(0, open_connections=7, open_sessions=5)
        for metric, labels, number in (
            (catalogue.CONNECTIONS, (), 10),
            (catalogue.EVICTED, (), 1),
            (catalogue.LOGINS, ("PASS", "success"), 2),
            (catalogue.LOGINS, ("SCRAM-SHA-256", "success"), 3),
            (catalogue.LOGINS, ("PASS", "failed"), 4),
            (catalogue.LOGINS, ("PASS", "aborted"), 9),
            (catalogue.COMMANDS, ("STAT",), 30),
            (catalogue.COMMANDS, ("RETR",), 20),
            (catalogue.REFUSALS, ("AUTH",), 1),
            (catalogue.RETRIEVED_MESSAGES, (), 20),
            (catalogue.REMOVED_MESSAGES, (), 15),
            (catalogue.SENT_BYTES, (), 12_000),
        ):
            self.counters.add(metric, labels, number)
        self.sample(10, open_connections=8, open_sessions=6)
        self.assertEqual(
            self.newest(),
            {
                ("open", "logged in"): 6,
                ("open", "all"): 8,
                ("connections", "accepted"): 60,
                ("connections", "evicted"): 6,
                ("logins", "successful"): 30,
                ("logins", "failed"): 24,
                ("commands", "all"): 5,
                ("commands", "refused"): 0.1,
                ("messages", "retrieved"): 120,
                ("messages", "removed"): 90,
                ("sent", "sent"): 1200,
            },
        )

    def test_before(self):
        """Before the first answer of a process, everything is zero."""
        self.history.add(0, measure({}))
        self.history.add(10, measure({}))
        self.assertEqual(set(self.newest().values()), {0})

    def test_metrics(self):
        """Each plot has gauges only or counters only, of labels that the catalogue has."""
        for each in DESCRIPTIONS:
            kinds = {line.metric.kind for line in each.lines}
            self.assertIn(kinds, ({Kind.GAUGE}, {Kind.COUNTER}))
            for line in each.lines:
                if line.last_label is not None:
                    self.assertEqual(line.metric.labels[-1], "outcome")
                    self.assertIn(line.last_label, catalogue.OUTCOMES)
