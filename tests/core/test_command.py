"""Tests of popserv.core.command."""

from twisted.trial.unittest import SynchronousTestCase

from popserv.commands import rfc1725
from popserv.core.command import CommandTable, command
from popserv.core.grammar import no_arguments
from popserv.core.replies import Reply
from popserv.core.session import State
from popserv.errors import BadCommand
from tests.core.harness import make_session


@command(b"XYZ", State.AUTHORIZATION, no_arguments, available=lambda s: s.host == b"here")
def xyz(session):
    """Reply."""
    return Reply(b"xyz")


class CommandTableTests(SynchronousTestCase):
    """The table finds commands, and rejects those that a session does not have."""

    def test_find(self):
        """A command is found by its keyword, in its states, if it is available."""
        table = CommandTable([xyz])
        self.assertIs(table.find(make_session(host=b"here"), b"XYZ"), xyz)
        self.assertEqual(list(table), [xyz])

    def test_rejections(self):
        """Commands that are unknown, unavailable or of another state are rejected."""
        table = CommandTable(rfc1725.COMMANDS, [xyz])
        update = make_session()
        update.state = State.UPDATE
        for session, keyword, text in [
            (make_session(), b"BOGUS", "unknown command"),
            (make_session(), b"", "unknown command"),
            (make_session(), b"__CLASS__", "unknown command"),
            (make_session(), b"STAT", "log in first"),
            (make_session(), b"XYZ", "command not available"),
            (make_session(), b"APOP", "APOP is not available"),
            (
                make_session(allows_cleartext=False),
                b"USER",
                "cleartext passwords are not allowed without TLS",
            ),
            (update, b"QUIT", "session has ended"),
        ]:
            error = self.assertRaises(BadCommand, table.find, session, keyword)
            self.assertEqual(str(error.text), text)

    def test_keywords_are_unique(self):
        """A table with two commands of one keyword is an error."""
        self.assertRaises(ValueError, CommandTable, [xyz], [xyz])

    def test_rfc1725(self):
        """The commands of RFC 1725 are those of its command summary (section 8)."""
        valid = {}
        for entry in CommandTable(rfc1725.COMMANDS):
            for state in entry.states:
                valid.setdefault(state, set()).add(entry.keyword)
        self.assertEqual(valid[State.AUTHORIZATION], {b"USER", b"PASS", b"QUIT", b"APOP"})
        self.assertEqual(
            valid[State.TRANSACTION],
            {b"STAT", b"LIST", b"RETR", b"DELE", b"NOOP", b"RSET", b"QUIT", b"TOP", b"UIDL"},
        )
