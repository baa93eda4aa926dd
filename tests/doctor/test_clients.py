"""Tests of popserv.doctor.clients: what each program sends, and that nothing is changed."""

from twisted.trial.unittest import SynchronousTestCase

from popserv.doctor.client_session import TLS, ClientSession
from popserv.doctor.clients import CLIENTS
from popserv.doctor.targets import trusting_context
from tests.doctor.harness import target_of
from tests.migration.harness import FakeServer

MESSAGES = [(b"a", b"Subject: a\r\n\r\n"), (b"b", b"Subject: b\r\n\r\n")]
ENDS = ["RETR 1", "RETR 2"]

SENT = {
    "Outlook": ["CAPA", "AUTH ", "USER ann", "PASS x", "UTF8", "STAT", "UIDL", "LIST", *ENDS],
    "Thunderbird": [
        *("CAPA", "CAPA", "AUTH PLAIN", "AGFubgB4", "STAT", "LIST", "UIDL", "TOP 1 0", "TOP 2 0"),
        *ENDS,
    ],
    "Apple Mail": [
        *("CAPA", "CAPA", "AUTH PLAIN AGFubgB4", "STAT", "UIDL", "UIDL 2"),
        *("TOP 1 10000", "TOP 2 10000", *ENDS),
    ],
    "Gmail": ["USER ann", "PASS x", "CAPA", "LIST", "UIDL", *ENDS],
    "fetchmail": [
        *("CAPA", "CAPA", "USER ann", "PASS x", "STAT", "UIDL", "LIST"),
        *("TOP 1 99999999", "TOP 2 99999999"),
    ],
    "mpop": ["CAPA", "CAPA", "AUTH PLAIN AGFubgB4", "STAT", "UIDL", "LIST", *ENDS],
    "K-9": [
        *("CAPA", "CAPA", "AUTH PLAIN", "AGFubgB4", "STAT", "UIDL", "LIST"),
        *("TOP 1 431", "TOP 2 431", *ENDS),
    ],
}


class ClientsTests(SynchronousTestCase):
    """The programs."""

    def run_client(self, name, capa):
        """Run a program with a server; return the lines that it has sent."""
        replies = {
            b"STAT": b"+OK 2 30\r\n",
            b"AUTH ": b"-ERR\r\n",
            b"UIDL 2": b"+OK 2 b\r\n",
        }
        server = FakeServer(self, MESSAGES, capa=capa, replies=replies)
        conversation = target_of(("localhost", server.port)).connect(5)
        self.addCleanup(conversation.abandon)
        tls = TLS(trusting_context(), "localhost", True, False)
        session = ClientSession(conversation, tls, b"ann", b"x")
        CLIENTS[name](session)
        session.end()
        self.assertEqual(server.commands[-1], b"RSET")
        self.assertEqual(server.changes, [])
        sent = [line.decode("ascii") for line in server.commands[:-1]]
        self.assertEqual([line for line in sent if line.startswith(("DELE", "QUIT"))], [])
        return sent

    def test_sent(self):
        """Each program sends its lines."""
        self.assertEqual(set(SENT), set(CLIENTS))
        for name, lines in SENT.items():
            capa = [b"TOP", b"UIDL", b"SASL PLAIN", b"PIPELINING"]
            # LIST of a fake server has sizes that fit, and TOP only the header.
            self.assertEqual(self.run_client(name, capa), lines, name)

    def test_without_sasl(self):
        """Without SASL they log in by USER and PASS; Thunderbird knows LOGIN, too."""
        for name in CLIENTS:
            sent = self.run_client(name, [b"UIDL"])
            self.assertIn("PASS x", sent, name)
        self.assertIn("AUTH LOGIN", self.run_client("Thunderbird", [b"SASL LOGIN"]))
        self.assertNotIn("TOP 1 431", self.run_client("K-9", []))
