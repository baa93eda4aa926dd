"""Commands that are counted, and messages that RETR sends."""

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from popserv.commands import sending
from popserv.core.command import CommandTable, command
from popserv.core.grammar import arguments, number
from popserv.core.replies import Reply
from popserv.core.session import State
from popserv.metrics import catalogue
from popserv.metrics.commands import MeasuredCommands
from tests.metrics.harness import MeasuredMixin


class CommandsTests(MeasuredMixin, SynchronousTestCase):
    """Commands are counted by keyword."""

    def test_keywords(self):
        """Each command is counted, valid or not; unknown ones have one label value."""
        self.logged_in(b"stat", b"RETR 9", b"RETR x", b"USER ann", b"SING", b"X" * 20, b"LAST")
        self.assertEqual(
            self.nonzero(catalogue.COMMANDS),
            {("USER",): 2, ("PASS",): 1, ("STAT",): 1, ("RETR",): 2, ("other",): 2, ("LAST",): 1},
        )

    def test_bounded(self):
        """However many commands clients make up, there are no more label values."""
        before = len(self.instruments.counters.samples[catalogue.COMMANDS.name])
        client = self.connect()
        for at in range(100):
            client.send(b"X%d\r\n" % at)
        self.assertEqual(len(self.instruments.counters.samples[catalogue.COMMANDS.name]), before)

    def test_table(self):
        """The table has the same commands as without metrics."""
        table = CommandTable(self.factory.commands)
        measured = MeasuredCommands(table, self.instruments.counters)
        self.assertIsInstance(self.factory.commands, MeasuredCommands)
        self.assertEqual([each.keyword for each in measured], [each.keyword for each in table])
        client = self.connect()
        self.assertIn(b"-ERR", client.send(b"STAT\r\n"))


class RetrTests(MeasuredMixin, SynchronousTestCase):
    """Messages that are sent whole."""

    def assert_counted(self, messages, octets):
        """Check how many messages and octets were counted, and that each was measured."""
        self.assertEqual(self.value(catalogue.RETRIEVED_MESSAGES), messages)
        self.assertEqual(self.value(catalogue.RETRIEVED_BYTES), octets)
        self.assertEqual(self.value(catalogue.RETR_SECONDS), messages)

    def test_cached(self):
        """A message that the store has cached is counted with its octets."""
        self.patch(sending, "_cached_response", lambda *_: b"+OK\r\none\r\n.\r\n")
        client = self.logged_in()
        self.assertIn(b"one", client.send(b"RETR 1\r\n"))
        self.assert_counted(1, 5)
        client.send(b"RETR 2\r\nRETR 1\r\n")
        self.assert_counted(3, 17)

    def test_opened(self):
        """So is one that the store opens at once."""
        client = self.logged_in()
        self.assertIn(b"one", client.send(b"RETR 1\r\nRETR 2\r\n"))
        self.assert_counted(2, 12)

    def test_refused(self):
        """A message that is not sent is not counted, nor is TOP."""
        self.logged_in(b"DELE 1", b"RETR 1", b"RETR 3", b"RETR", b"TOP 2 1")
        self.assert_counted(0, 0)

    def test_waiting(self):
        """A message that must be waited for is counted once it is sent."""
        self.patch(self.store, "slow", {"open"})
        client = self.logged_in(b"RETR 1")
        self.assert_counted(0, 0)
        self.store.waiting["open"].callback(None)
        self.assertIn(b"one", client.received())
        self.assert_counted(1, 5)

    def test_lost(self):
        """A message whose client is gone is not counted."""
        self.patch(self.store, "slow", {"open"})
        client = self.logged_in(b"RETR 1")
        client.lose()
        self.store.waiting["open"].callback(None)
        self.assert_counted(0, 0)

    def test_other_command(self):
        """A RETR of others may return its reply at once, and tell nobody when it is sent."""

        @command(b"RETR", State.TRANSACTION, arguments(number))
        def retr(session, n):
            return Reply(b"ok", [b"one\n"])

        self.factory.commands = MeasuredCommands([*self.others(), retr], self.instruments.counters)
        client = self.logged_in()
        self.assertIn(b"one", client.send(b"RETR 1\r\n"))
        self.assert_counted(1, 0)

    def others(self):
        """Return the commands without RETR."""
        return [each for each in self.factory.commands if each.keyword != b"RETR"]

    def test_waits_for_chunk(self):
        """The time of a message ends with its last chunk."""
        chunk = Deferred()

        @command(b"RETR", State.TRANSACTION, arguments(number))
        async def retr(session, n):
            return Reply(b"ok", [chunk], sent=lambda: session.record_retrieval(session.maildrop[n]))

        self.factory.commands = MeasuredCommands([*self.others(), retr], self.instruments.counters)
        client = self.logged_in(b"RETR 2")
        self.assert_counted(0, 0)
        chunk.callback(b"three\n")
        self.assertIn(b"three", client.received())
        self.assert_counted(1, 7)
