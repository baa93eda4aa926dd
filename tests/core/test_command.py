"""The table: one word on what a session may say."""

from twisted.trial.unittest import SynchronousTestCase

from popserv.commands import rfc1725
from popserv.core.command import CommandTable, command
from popserv.core.grammar import no_arguments
from popserv.core.replies import Reply
from popserv.core.session import Session, State
from popserv.errors import BadCommand, LoginFailed


class Nobody:
    """A place to log in where nobody can."""

    async def authenticate(self, credentials):
        """Refuse."""
        raise LoginFailed

    def supports(self, credentials):
        """Offer all the same."""
        return True


def session(**facts):
    """A session that nobody can log in to."""
    return Session(Nobody(), **facts)


@command(b"XYZ", State.AUTHORIZATION, no_arguments, available=lambda s: s.host == b"here")
def xyz(session):
    """Answer."""
    return Reply(b"xyz")


class CommandTableTests(SynchronousTestCase):
    """Dispatch is a look-up, and nothing else."""

    def test_find(self):
        """A command is found by its keyword, in its states, where it is available."""
        table = CommandTable([xyz])
        self.assertIs(table.find(session(host=b"here"), b"XYZ"), xyz)
        self.assertEqual(list(table), [xyz])

    def test_refusals(self):
        """Unknown, not offered, or not now: each has its text."""
        table = CommandTable(rfc1725.COMMANDS, [xyz])
        update = session()
        update.state = State.UPDATE
        for where, keyword, text in [
            (session(), b"BOGUS", "unknown command"),
            (session(), b"", "unknown command"),
            (session(), b"__CLASS__", "unknown command"),
            (session(), b"STAT", "log in first"),
            (session(), b"XYZ", "command not available"),
            (session(), b"APOP", "APOP is not available"),
            (
                session(allows_cleartext=False),
                b"USER",
                "cleartext passwords are not allowed without TLS",
            ),
            (update, b"QUIT", "session has ended"),
        ]:
            refusal = self.assertRaises(BadCommand, table.find, where, keyword)
            self.assertEqual(str(refusal.text), text)

    def test_keywords_are_unique(self):
        """Two commands of one name are a mistake."""
        self.assertRaises(ValueError, CommandTable, [xyz], [xyz])

    def test_rfc1725_is_whole(self):
        """RFC 1725 section 8, the command summary."""
        valid = {}
        for entry in CommandTable(rfc1725.COMMANDS):
            for state in entry.states:
                valid.setdefault(state, set()).add(entry.keyword)
        self.assertEqual(valid[State.AUTHORIZATION], {b"USER", b"PASS", b"QUIT", b"APOP"})
        self.assertEqual(
            valid[State.TRANSACTION],
            {b"STAT", b"LIST", b"RETR", b"DELE", b"NOOP", b"RSET", b"QUIT", b"TOP", b"UIDL"},
        )
