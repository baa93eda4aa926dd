"""Questions to workers, and what becomes of the answers."""

import json

from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from popserv.runtime.bus import Answers
from popserv.workers.questions import MAX_ANSWER, Questions, answer_line, answers_line


class Process:
    """A process that keeps the lines that it is sent."""

    def __init__(self):
        self.lines = []

    def send(self, line):
        """Keep a line."""
        self.lines.append(line)


class QuestionsTests(SynchronousTestCase):
    """Questions are answered in bounded time."""

    def setUp(self):
        """Ask two processes, which have three seconds."""
        self.clock = Clock()
        self.questions = Questions(self.clock)
        self.first, self.second = Process(), Process()
        self.answers = self.questions.ask([self.first, self.second], "colours", ["?"], 3)

    def test_line(self):
        """The line of a question has a number, the topic, the question, and the seconds."""
        for process in (self.first, self.second):
            self.assertEqual(process.lines, [b'ask [1, "colours", ["?"], 3]'])

    def test_answers(self):
        """The answers are in the order of the processes, whoever is faster."""
        self.questions.receive(self.second, b'[1, "red"]')
        self.assertNoResult(self.answers)
        self.questions.receive(self.first, b"[1, null]")
        self.assertEqual(self.successResultOf(self.answers), Answers([None, "red"], 0))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_nobody(self):
        """A question to nobody is answered at once."""
        self.assertEqual(
            self.successResultOf(self.questions.ask([], "colours", 1, 3)), Answers((), 0)
        )

    def test_missing(self):
        """A process that does not answer in time is missing; its late answer is ignored."""
        self.questions.receive(self.first, b'[1, "red"]')
        self.clock.advance(2.9)
        self.assertNoResult(self.answers)
        self.clock.advance(0.2)
        self.assertEqual(self.successResultOf(self.answers), Answers(["red"], 1))
        self.questions.receive(self.second, b'[1, "blue"]')

    def test_no_answer(self):
        """A process that has no answer is missing, and not waited for."""
        self.questions.receive(self.first, b"[1]")
        self.questions.receive(self.second, b'[1, "red"]')
        self.assertEqual(self.successResultOf(self.answers), Answers(["red"], 1))

    def test_ended(self):
        """A process that ends is neither waited for nor missing; other questions go on."""
        other = self.questions.ask([self.second], "colours", 1, 3)
        self.questions.receive(self.second, b'[1, "red"]')
        self.questions.forget(self.first)
        self.assertEqual(self.successResultOf(self.answers), Answers(["red"], 0))
        self.assertNoResult(other)
        self.questions.forget(self.second)
        self.assertEqual(self.successResultOf(other), Answers([], 0))

    def test_cancelled(self):
        """A question whose asker has given up waits for its answers all the same."""
        self.answers.cancel()
        self.failureResultOf(self.answers, CancelledError)
        self.questions.receive(self.first, b'[1, "red"]')
        self.questions.receive(self.second, b'[1, "red"]')
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_ended_after_answer(self):
        """The answer of a process that ends afterwards counts."""
        self.questions.receive(self.first, b'[1, "red"]')
        self.questions.forget(self.first)
        self.questions.receive(self.second, b"[1]")
        self.assertEqual(self.successResultOf(self.answers), Answers(["red"], 1))

    def test_twice(self):
        """Only the first answer of a process counts, and only that of one that was asked."""
        for process, answer in ((self.first, "red"), (self.first, "blue"), (Process(), "green")):
            self.questions.receive(process, json.dumps([1, answer]).encode())
        self.assertNoResult(self.answers)
        self.questions.receive(self.second, b'[1, "black"]')
        self.assertEqual(self.successResultOf(self.answers).given, ["red", "black"])


class LineTests(SynchronousTestCase):
    """Lines with answers."""

    def test_answer_line(self):
        """The answer of a worker has the number of the question; none is sent if it is long."""
        self.assertEqual(answer_line(7, Answers(("x",), 0)), b'answer [7, "x"]')
        self.assertEqual(answer_line(7, Answers((), 1)), b"answer [7]")
        for text in ("\xfc\U0001f4ec", "\udcff"):
            line = answer_line(7, Answers((text,), 0))
            self.assertEqual(json.loads(line.removeprefix(b"answer ")), [7, text])
        self.assertEqual(answer_line(7, Answers(("\xfc",), 0)), b'answer [7, "\xc3\xbc"]')
        self.assertEqual(answer_line(7, Answers(("x" * MAX_ANSWER,), 0)), b"answer [7]")

    def test_answers_line(self):
        """The answers to the question of a worker are missing if they are too long together."""
        self.assertEqual(answers_line(7, Answers(["x", 1], 2)), b'answers [7, ["x", 1], 2]')
        long = Answers(["x" * (MAX_ANSWER // 2)] * 2, 1)
        self.assertEqual(answers_line(7, long), b"answers [7, [], 3]")
