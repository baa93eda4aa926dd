"""The dialects: each has exactly the commands of its RFC or draft."""

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
"""From the summaries of commands in the texts."""

ALL = sorted(set().union(*KEYWORDS.values()))


class DialectTests(SynchronousTestCase):
    """The command tables, and what a client can use of them."""

    def test_commands(self):
        """A dialect has the commands of its text, each once."""
        self.assertEqual(set(DIALECTS), set(KEYWORDS))
        for name, dialect in DIALECTS.items():
            table = CommandTable(dialect.commands)
            self.assertEqual({command.keyword for command in table}, KEYWORDS[name], name)
            for keyword in ALL:
                self.assertEqual(dialect.has(keyword), keyword in KEYWORDS[name])

    def test_ports(self):
        """POP3 uses port 110, its predecessor port 109."""
        ports = {name: dialect.port for name, dialect in DIALECTS.items()}
        self.assertEqual(ports, {**dict.fromkeys(DIALECTS, 110), "pop-revised": 109})

    def test_greetings(self):
        """The old dialects greet with the short host name and an address for comments."""
        for name, dialect in DIALECTS.items():
            service = {"rfc1225": b"POP3", "pop-revised": b"POP"}.get(name)
            for host, domain in ((b"dewey.UDel", b"UDel"), (b"dewey", b"dewey")):
                expected = b"POP3 server ready"
                if service is not None:
                    comments = b" (Comments to: PostMaster@%b)" % domain
                    expected = b"dewey %b server ready" % service + comments
                self.assertEqual(dialect.greeting(host), expected)

    def connect(self, dialect, *lines):
        """Return a client that has sent these lines to a server of this dialect."""
        store = MemoryMaildrops()
        store.deliver(b"joe", b"Subject: 1\n\n")
        client = MemoryClient(make_factory(store, self.mktemp(), dialect=dialect))
        client.received()
        for line in lines:
            client.send(line + b"\r\n")
        return client

    def test_other_dialects(self):
        """A command of another dialect is unknown in every state."""
        for name, dialect in DIALECTS.items():
            for before in ((), (b"USER joe",), (b"USER joe", b"PASS secret")):
                for keyword in set(ALL) - KEYWORDS[name]:
                    client = self.connect(dialect, *before)
                    for line in (keyword, keyword.lower() + b" 1", keyword + b" a b"):
                        self.assertEqual(client.send(line + b"\r\n"), b"-ERR unknown command\r\n")
                    self.assertEqual(client.send(b"QUIT\r\n")[:4], b"+OK ")
                    self.assertTrue(client.closed)

    def test_bad_arguments(self):
        """A command with bad arguments gets -ERR, and the session continues."""
        for dialect in DIALECTS.values():
            client = self.connect(dialect, b"USER joe", b"PASS secret")
            for command in dialect.commands:
                reply = client.send(command.keyword + b" \xff  x y z \r\n")
                self.assertEqual(reply[:5], b"-ERR ", command.keyword)
                self.assertEqual(client.send(b"NOOP\r\n")[:4], b"+OK ")
                if command.parse is not no_arguments:
                    self.assertEqual(client.send(command.keyword + b" 1 2 3\r\n")[:5], b"-ERR ")
            self.assertEqual(client.send(b"STAT\r\n"), b"+OK 1 14\r\n")
