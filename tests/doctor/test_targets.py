"""Tests of popserv.doctor.targets."""

from twisted.trial.unittest import SynchronousTestCase

from popserv.doctor.conversation import ServerFailed
from popserv.doctor.targets import PROXY_HEADER, Answer, ask, explain_silence
from tests.doctor.harness import ScriptedServer, target_of
from tests.migration.harness import FakeServer


class AskTests(SynchronousTestCase):
    """What a server says before a login."""

    def test_answer(self):
        """The greeting and the capabilities are told, with TLS or without it."""
        for implicit_tls in (False, True):
            server = FakeServer(self, capa=[b"Implementation x"], implicit_tls=implicit_tls)
            target = target_of(("localhost", server.port), starts_tls=implicit_tls)
            answer = ask(target)
            self.assertEqual(answer, Answer(b"ready", (b"IMPLEMENTATION X",)))
            self.assertEqual(str(answer), '"ready"')

    def test_no_capa(self):
        """A server need not have CAPA."""
        server = FakeServer(self, replies={b"CAPA": b"-ERR\r\n"})
        self.assertEqual(ask(target_of(("localhost", server.port))).capabilities, ())

    def test_no_greeting(self):
        """A server that does not greet has failed, and the connection is closed."""
        server = ScriptedServer(self, lambda connection: connection.recv(10))
        self.assertRaises(ServerFailed, ask, target_of(server.address), 0.05)

    def test_popserv(self):
        """Popserv is known by its capability, or by its greeting if it hides that."""
        for greeting, capabilities, expected in (
            (b"x", (b"TOP", b"IMPLEMENTATION POPSERV-1"), True),
            (b"POP3 server ready", (b"IMPLEMENTATION DOVECOT",), False),
            (b"POP3 server ready <1.2@x>", (), True),
            (b"Dovecot ready.", (), False),
        ):
            self.assertEqual(Answer(greeting, capabilities).is_popserv, expected)

    def test_parameters(self):
        """A capability may have a parameter."""
        answer = Answer(b"", (b"STLS", b"LOGIN-DELAY 30 USER", b""))
        self.assertEqual(answer.parameter_of(b"STLS"), b"")
        self.assertEqual(answer.parameter_of(b"LOGIN-DELAY"), b"30")
        self.assertIsNone(answer.parameter_of(b"TOP"))


class SilenceTests(SynchronousTestCase):
    """Why a server does not greet."""

    def explain(self, target):
        """Return the explanation."""
        return explain_silence(target, ServerFailed("the problem"), 0.5)

    def test_proxy(self):
        """A server that waits for the header of a proxy is told."""

        def serve(connection):
            if connection.recv(100) == PROXY_HEADER:
                connection.sendall(b"+OK\r\n-ERR\r\n")
                connection.recv(100)

        server = ScriptedServer(self, serve)
        what, remedy = self.explain(target_of(server.address))
        self.assertIn("waits for a header of the PROXY protocol", what)
        self.assertIn("haproxy:", remedy)

    def test_tls(self):
        """A port for TLS is told, and one that is not."""
        secure = FakeServer(self, implicit_tls=True)
        what, _ = self.explain(target_of(("localhost", secure.port)))
        self.assertIn("TLS starts with the first octet", what)
        plain = FakeServer(self)
        what, _ = self.explain(target_of(("localhost", plain.port), starts_tls=True))
        self.assertIn("TLS does not start with the first octet", what)

    def test_unknown(self):
        """For any other server, the problem is told."""
        server = ScriptedServer(self, lambda connection: None)
        plain, secure = (target_of(server.address, starts_tls=each) for each in (False, True))
        for target in (plain, secure, plain._replace(header=PROXY_HEADER)):
            what, _ = self.explain(target)
            self.assertEqual(what, "the problem")
