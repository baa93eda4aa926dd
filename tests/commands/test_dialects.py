"""Each dialect has exactly the commands of its text."""

from twisted.trial.unittest import SynchronousTestCase

from popserv.commands.dialects import DIALECTS
from popserv.core.command import CommandTable
from popserv.core.grammar import no_arguments
from popserv.maildrops.memory import MemoryMaildrops
from popserv.testing import MemoryClient
from tests.transcripts import make_factory

RFC1725 = set(b"USER PASS APOP QUIT STAT LIST RETR DELE NOOP RSET TOP UIDL".split())

KEYWORDS = {
    "modern": RFC1725 | set(b"CAPA STLS AUTH UTF8 LANG".split()),
    "rfc1725": RFC1725,
    "rfc1460": RFC1725 - {b"UIDL"} | {b"LAST"},
    "rfc1225": RFC1725 - {b"UIDL", b"APOP"} | {b"LAST", b"RPOP"},
    "pop-revised": RFC1725 - {b"UIDL", b"APOP"} | {b"RPOP"},
}
"""From the texts' summaries of commands."""

ALL = sorted(set().union(*KEYWORDS.values()))


class DialectTests(SynchronousTestCase):
    """The tables, and what a client finds of them."""

    def test_commands(self):
        """Each has the commands of its text, once, and no more."""
        self.assertEqual(set(DIALECTS), set(KEYWORDS))
        for name, dialect in DIALECTS.items():
            table = CommandTable(dialect.commands)
            self.assertEqual({command.keyword for command in table}, KEYWORDS[name], name)
            for keyword in ALL:
                self.assertEqual(dialect.has(keyword), keyword in KEYWORDS[name])

    def test_ports(self):
        """POP3 is on port 110, and its predecessor on 109."""
        ports = {name: dialect.port for name, dialect in DIALECTS.items()}
        self.assertEqual(ports, {**dict.fromkeys(DIALECTS, 110), "pop-revised": 109})

    def test_greetings(self):
        """The old ones greet by the host's short name, and say whom to tell what one thinks."""
        for name, dialect in DIALECTS.items():
            service = {"rfc1225": b"POP3", "pop-revised": b"POP"}.get(name)
            for host, whom in ((b"dewey.UDel", b"UDel"), (b"dewey", b"dewey")):
                wanted = b"POP3 server ready"
                if service is not None:
                    comments = b" (Comments to: PostMaster@%b)" % whom
                    wanted = b"dewey %b server ready" % service + comments
                self.assertEqual(dialect.greeting(host), wanted)

    def talk(self, dialect, *lines):
        """A conversation in a dialect that has come so far."""
        store = MemoryMaildrops()
        store.deliver(b"joe", b"Subject: 1\n\n")
        talk = MemoryClient(make_factory(store, self.mktemp(), dialect=dialect))
        talk.received()
        for line in lines:
            talk.send(line + b"\r\n")
        return talk

    def test_commands_of_others(self):
        """A command of another dialect is unknown, in every state, and the session goes on."""
        for name, dialect in DIALECTS.items():
            for before in ((), (b"USER joe",), (b"USER joe", b"PASS secret")):
                for keyword in set(ALL) - KEYWORDS[name]:
                    talk = self.talk(dialect, *before)
                    for line in (keyword, keyword.lower() + b" 1", keyword + b" a b"):
                        self.assertEqual(talk.send(line + b"\r\n"), b"-ERR unknown command\r\n")
                    self.assertEqual(talk.send(b"QUIT\r\n")[:4], b"+OK ")
                    self.assertTrue(talk.closed)

    def test_bad_arguments(self):
        """A command with bad arguments is -ERR in every dialect, and the session goes on."""
        for dialect in DIALECTS.values():
            talk = self.talk(dialect, b"USER joe", b"PASS secret")
            for command in dialect.commands:
                told = talk.send(command.keyword + b" \xff  x y z \r\n")
                self.assertEqual(told[:5], b"-ERR ", command.keyword)
                self.assertEqual(talk.send(b"NOOP\r\n")[:4], b"+OK ")
                if command.parse is not no_arguments:
                    self.assertEqual(talk.send(command.keyword + b" 1 2 3\r\n")[:5], b"-ERR ")
            self.assertEqual(talk.send(b"STAT\r\n"), b"+OK 1 14\r\n")
