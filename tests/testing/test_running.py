"""Tests of popserv.testing.running: real servers, with poplib as the client."""

import contextlib
import poplib
import ssl
import threading
from email.message import EmailMessage
from unittest.mock import patch

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol
from twisted.internet.protocol import Protocol
from twisted.trial.unittest import SynchronousTestCase, TestCase

from popserv.testing import Faults, ServerError, running_server
from popserv.testing.host_process import HostProcess
from popserv.testing.settings import ServerState

TIMEOUT = 60
USERS = {"ann": "secret"}
MAIL = {"ann": [b"Subject: 1\n\none\n", b"Subject: 2\n\n.two\n"]}


def log_in(client, name="ann", password="secret"):
    """Log in; return the client."""
    client.user(name)
    client.pass_(password)
    return client


class RunningServerTests(SynchronousTestCase):
    """A server that a test has started."""

    def start(self, users=USERS, **settings):
        """Return a server, which is stopped after the test."""
        server = running_server(users, **settings).start()
        self.addCleanup(server.stop)
        return server

    def connect(self, server):
        """Return a client, which is closed after the test."""
        client = poplib.POP3(server.host, server.port, TIMEOUT)
        self.addCleanup(client.close)
        return client

    def test_session(self):
        """A client reads and deletes mail; afterwards the server tells what happened."""
        with running_server(USERS, mail=MAIL) as server:
            client = log_in(self.connect(server))
            self.assertEqual(client.retr(2)[1], [b"Subject: 2", b"", b".two"])
            client.dele(1)
            client.quit()
            self.assertEqual(server.messages("ann"), [b"Subject: 2\n\n.two\n"])
        self.assertEqual(server.messages("ann"), [b"Subject: 2\n\n.two\n"])
        self.assertEqual(server.unique_ids("ann"), ["m2"])
        self.assertEqual(server.commands(), ["USER ann", "PASS secret", "RETR 2", "DELE 1", "QUIT"])
        self.assertEqual(str(server.transcript()[0]), "S: +OK POP3 server ready")
        self.assertRaises(ConnectionRefusedError, poplib.POP3, server.host, server.port)

    def test_deliver(self):
        """Mail is delivered while the server runs, as octets or as an email message."""
        server = self.start({"ann": "secret", "bob": "secret"})
        message = EmailMessage()
        message["Subject"] = "hello"
        uids = [server.deliver("ann", b"one\n"), server.deliver("ann", message)]
        self.assertEqual(server.unique_ids("ann"), uids)
        self.assertEqual(server.messages("ann"), [b"one\n", message.as_bytes()])
        self.assertEqual(server.messages("bob"), [])
        self.assertEqual(log_in(self.connect(server)).stat()[0], 2)
        self.assertRaises(TypeError, server.deliver, "ann", "Subject: text\n")
        self.assertRaises(ValueError, server.deliver, "joe", b"one\n")
        self.assertRaises(ValueError, server.messages, "joe")
        self.assertRaises(ValueError, server.unique_ids, "joe")

    def test_apop(self):
        """A user of apop_users logs in by APOP."""
        server = self.start(apop_users={"bob": "tanstaaf"}, mail={"bob": [b"one\n"]})
        client = self.connect(server)
        client.apop("bob", "tanstaaf")
        self.assertEqual(client.stat(), (1, 5))

    def test_tls(self):
        """With TLS there are STLS and a second port, which clients of the authority accept."""
        server = self.start(tls=True, mail=MAIL)
        client = self.connect(server)
        client.stls(server.client_context())
        self.assertEqual(log_in(client).stat()[0], 2)
        client.quit()
        context = ssl.create_default_context(cafile=server.ca_file)
        with contextlib.closing(
            poplib.POP3_SSL("localhost", server.tls_port, timeout=TIMEOUT, context=context)
        ) as client:
            self.assertEqual(log_in(client).stat()[0], 2)
        self.assertIn("STLS", server.commands())

    def test_no_tls(self):
        """Without TLS, its port and its authority are an error that says how to get them."""
        server = self.start()
        self.assertNotIn("STLS", self.connect(server).capa())
        for ask in (lambda: server.tls_port, lambda: server.ca_file, server.client_context):
            with self.assertRaisesRegex(ValueError, "start it with tls=True"):
                ask()

    def test_bad_certificates(self):
        """A client that verifies certificates rejects each that is not valid."""
        for kind in ("expired", "untrusted", "wrong-host"):
            server = self.start(tls=True, certificate=kind)
            with self.assertRaises(ssl.SSLCertVerificationError):
                poplib.POP3_SSL(
                    "localhost",
                    server.tls_port,
                    timeout=TIMEOUT,
                    context=server.client_context(),
                )

    def test_faults(self):
        """Faults can be given at the start, replaced and removed."""
        server = self.start(mail=MAIL, faults=Faults(lock_held=True))
        client = self.connect(server)
        error = self.assertRaises(poplib.error_proto, log_in, client)
        self.assertIn(b"[IN-USE]", error.args[0])
        server.faults = Faults(fail_retr=1)
        self.assertEqual(server.faults, Faults(fail_retr=1))
        log_in(client)
        self.assertRaises(poplib.error_proto, client.retr, 1)
        self.assertEqual(len(client.retr(1)[1]), 3)
        server.faults = None
        self.assertEqual(server.faults, Faults())
        with self.assertRaisesRegex(TypeError, "must be Faults"):
            server.faults = "slow"

    def test_network_faults(self):
        """Faults of the network work with STLS and TLS as they do without."""
        server = self.start(tls=True, mail=MAIL, faults=Faults(drop_retr=(1, 5)))
        plain, with_stls = self.connect(server), self.connect(server)
        with_stls.stls(server.client_context())
        with_tls = poplib.POP3_SSL(
            "localhost", server.tls_port, timeout=TIMEOUT, context=server.client_context()
        )
        for client in (plain, with_stls, with_tls):
            server.faults = Faults(drop_retr=(1, 5))
            log_in(client)
            client._putcmd("RETR 1")
            self.assertEqual(client.file.read(), b"+OK 19 octets\r\nSubje")
            client.close()
        server.faults = Faults(octets_per_second=2000, reply_delay=0.01, greeting_delay=0.01)
        client = self.connect(server)
        client.stls(server.client_context())
        self.assertEqual(len(log_in(client).retr(2)[1]), 3)
        client.quit()

    def test_several(self):
        """Several servers run at once, and share nothing."""
        first, second = self.start(mail=MAIL), self.start({"bob": "other"})
        self.assertNotEqual(first.port, second.port)
        client = log_in(self.connect(second), "bob", "other")
        self.assertEqual(client.stat()[0], 0)
        self.assertEqual(first.commands(), [])
        first.stop()
        self.assertEqual(client.stat()[0], 0)

    def test_threads(self):
        """A server may be used in any thread."""
        server = self.start()
        threads = [
            threading.Thread(target=lambda: [server.deliver("ann", b"one\n") for _ in range(10)])
            for _ in range(5)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(len(set(server.unique_ids("ann"))), 50)

    def test_not_started(self):
        """A server that is not started, and one that is started twice, are errors."""
        server = running_server(USERS)
        server.stop()
        for ask in (lambda: server.port, server.transcript, lambda: server.messages("ann")):
            with self.assertRaisesRegex(RuntimeError, r"use it in a with block, or call start\(\)"):
                ask()
        with server, self.assertRaisesRegex(RuntimeError, "make another one"):
            server.start()
        self.assertRaises(RuntimeError, server.start)

    def test_stopped(self):
        """A server that was stopped can be asked, but takes no mail and no faults any more."""
        with running_server(USERS, mail=MAIL) as server:
            server.deliver("ann", b"three\n")
        for change in (
            lambda: server.deliver("ann", b"four\n"),
            lambda: setattr(server, "faults", Faults(fail_retr=1)),
        ):
            with self.assertRaisesRegex(RuntimeError, "the server was stopped; start another one"):
                change()
        self.assertEqual(server.faults, Faults())
        self.assertEqual(server.messages("ann"), [*MAIL["ann"], b"three\n"])

    def test_failed_start(self):
        """A server that could not be started need not be stopped."""
        server = running_server(USERS)
        with (
            patch.object(HostProcess, "request", side_effect=ServerError("no room")),
            self.assertRaises(ServerError),
        ):
            server.start()
        server.stop()

    def test_invalid(self):
        """Invalid arguments are an error before anything is started."""
        self.assertRaises(TypeError, running_server, "ann")
        self.assertRaises(ValueError, running_server, USERS, mail={"bob": []})

    def test_errors(self):
        """An error that the server has logged is raised at the end, once."""
        server = self.start()
        state = ServerState([], {b"ann": {}}, ["Traceback: one", "Traceback: two"])
        request = HostProcess.request

        def report(process, *arguments):
            result = request(process, *arguments)
            return state if arguments[0] == "stop" else result

        with patch.object(HostProcess, "request", report):
            error = self.assertRaises(ServerError, server.stop)
        self.assertEqual(str(error), "Traceback: one\nTraceback: two")
        server.stop()
        self.assertEqual(server.transcript(), [])

    def test_process_ended(self):
        """If the process of the server has ended, stop is an error once, and then done."""
        server = self.start()
        with (
            patch.object(HostProcess, "request", side_effect=ServerError("has ended")),
            self.assertRaises(ServerError),
        ):
            server.stop()
        server.stop()
        # The server still runs: this test has only pretended.
        with contextlib.suppress(ServerError):
            server._request("stop")


class ReactorTests(TestCase):
    """A server for a test that uses the reactor."""

    async def test_reactor(self):
        """A client of Twisted talks to the server, and the reactor of the test is its own."""

        class Client(Protocol):
            received = b""

            def dataReceived(self, data):
                self.received += data
                if self.received.endswith(b"off\r\n"):
                    self.transport.loseConnection()

            def connectionLost(self, reason):
                done.callback(self.received)

        with running_server(USERS) as server:
            done = Deferred()
            endpoint = HostnameEndpoint(reactor, server.host, server.port)
            client = await connectProtocol(endpoint, Client())
            client.transport.write(b"QUIT\r\n")
            replies = await done
        self.assertEqual(
            replies, b"+OK POP3 server ready\r\n+OK localhost POP3 server signing off\r\n"
        )
        self.assertEqual(server.commands(), ["QUIT"])
