"""The metrics of a whole server."""

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from popserv import __version__
from popserv.metrics import catalogue
from popserv.metrics.process import TOPIC
from popserv.metrics.totals import MAX_AGE, ServerMetrics
from popserv.runtime.bus import Answers

COMMANDS = catalogue.COMMANDS.name
OPEN = catalogue.OPEN_SESSIONS.name


def answer(worker, pid, commands, *, started=1.0, sessions=1, is_serving=True):
    """Return the answer of a process that has counted so many commands."""
    return {
        "worker": worker,
        "pid": pid,
        "started": started,
        "is_serving": is_serving,
        "samples": [[COMMANDS, ["RETR"], commands], [OPEN, [], sessions]],
    }


class TotalsTests(SynchronousTestCase):
    """ServerMetrics of two workers."""

    def setUp(self):
        """Make the metrics of a server whose processes have the IDs 11 and 12."""
        self.now = 0.0
        self.pids = {11, 12}
        self.is_draining = False
        self.questions = []
        self.metrics = ServerMetrics(
            self.ask,
            2,
            lambda: self.pids,
            lambda: self.is_draining,
            now=lambda: self.now,
            started=70.5,
        )

    def ask(self, topic, question):
        """Ask the processes; the test answers."""
        self.assertEqual((topic, question), (TOPIC, None))
        self.questions.append(Deferred())
        return self.questions[-1]

    def snapshot(self, *answers, missing=0):
        """Return a new snapshot, from these answers."""
        self.now += MAX_AGE
        taken = self.metrics.snapshot()
        self.questions.pop().callback(Answers(answers, missing))
        return self.successResultOf(taken)

    def commands(self, *answers):
        """Return the number of commands in a new snapshot."""
        return self.snapshot(*answers).samples[COMMANDS]["RETR",]

    def test_sum(self):
        """What the processes have counted and have now is added up."""
        snapshot = self.snapshot(answer(1, 11, 3), answer(2, 12, 4, sessions=2))
        self.assertEqual(snapshot.samples[COMMANDS], {("RETR",): 7})
        self.assertEqual(snapshot.samples[OPEN], {(): 3})
        self.assertEqual((snapshot.missing, snapshot.is_draining), ([], False))

    def test_own(self):
        """The snapshot has what the main process knows."""
        samples = self.snapshot(answer(2, 12, 4)).samples
        self.assertEqual(samples[catalogue.WORKER_UP.name], {("1",): 0, ("2",): 1})
        self.assertEqual(samples[catalogue.DRAINING.name], {(): 0})
        self.assertEqual(samples[catalogue.START_TIME.name], {(): 70.5})
        self.assertEqual(samples[catalogue.BUILD_INFO.name], {(__version__,): 1})

    def test_start_time(self):
        """The server starts when its metrics are made."""
        metrics = ServerMetrics(lambda *_: succeed(Answers(())), 1, set, lambda: True)
        samples = self.successResultOf(metrics.snapshot()).samples
        self.assertGreater(samples[catalogue.START_TIME.name][()], 1e9)
        self.assertEqual(samples[catalogue.DRAINING.name], {(): 1})

    def test_no_answer(self):
        """A worker that does not answer is down; what it has counted stays, not what it has."""
        self.snapshot(answer(1, 11, 3), answer(2, 12, 4))
        snapshot = self.snapshot(answer(1, 11, 5), missing=1)
        self.assertEqual(snapshot.missing, [2])
        self.assertEqual(snapshot.samples[COMMANDS], {("RETR",): 9})
        self.assertEqual(snapshot.samples[OPEN], {(): 1})
        self.assertEqual(self.commands(answer(1, 11, 5), answer(2, 12, 6)), 11)

    def test_nobody_answers(self):
        """If no worker answers, there is a snapshot all the same."""
        self.snapshot(answer(1, 11, 3))
        snapshot = self.snapshot(missing=2)
        self.assertEqual(snapshot.missing, [1, 2])
        self.assertEqual(snapshot.samples[COMMANDS], {("RETR",): 3})
        self.assertNotIn(OPEN, snapshot.samples)

    def test_restart(self):
        """What a process has counted that has ended stays in the sum, through any restarts."""
        self.assertEqual(self.commands(answer(1, 11, 3), answer(2, 12, 4)), 7)
        for pid in range(13, 20):
            self.pids = {11, pid}
            before = 7 + pid - 13
            self.assertEqual(self.commands(answer(1, 11, 3), answer(2, pid, 0)), before)
            self.assertEqual(self.commands(answer(1, 11, 3), answer(2, pid, 1)), before + 1)
        self.assertEqual(len(self.metrics._counted), 2)

    def test_same_pid(self):
        """A process that gets the ID of an earlier one is told apart by the time of its start."""
        self.assertEqual(self.commands(answer(1, 11, 3), answer(2, 12, 4)), 7)
        self.assertEqual(self.commands(answer(1, 11, 3), answer(2, 12, 1, started=2.0)), 8)

    def test_leaving(self):
        """A worker that is leaving counts, and does not serve."""
        self.pids.add(13)
        leaving = answer(2, 12, 4, is_serving=False)
        self.assertEqual(self.snapshot(answer(1, 11, 3), leaving).missing, [2])
        snapshot = self.snapshot(answer(1, 11, 3), leaving, answer(2, 13, 1))
        self.assertEqual((snapshot.missing, snapshot.samples[COMMANDS]["RETR",]), ([], 8))

    def test_draining(self):
        """The snapshot tells whether the server is draining."""
        self.is_draining = True
        self.assertTrue(self.snapshot(answer(1, 11, 3)).is_draining)

    def test_one_question(self):
        """Requests that come together have one question, and one answer for a second."""
        self.now = 5.0
        taken = [self.metrics.snapshot() for _ in range(1000)]
        (question,) = self.questions
        question.callback(Answers([answer(1, 11, 3)]))
        (snapshot,) = {id(self.successResultOf(each)) for each in taken}
        self.now += MAX_AGE - 0.1
        again = self.successResultOf(self.metrics.snapshot())
        self.assertEqual(id(again), snapshot)
        self.assertEqual(len(self.questions), 1)
        self.now += 0.1
        self.assertNoResult(self.metrics.snapshot())
        self.assertEqual(len(self.questions), 2)

    def test_fault(self):
        """After a fault, those who wait are told, and the next question is asked."""
        taken = [self.metrics.snapshot() for _ in range(2)]
        self.questions.pop().callback(Answers([{"worker": 1}]))
        for each in taken:
            self.failureResultOf(each, KeyError)
        self.assertEqual(self.commands(answer(1, 11, 3)), 3)
