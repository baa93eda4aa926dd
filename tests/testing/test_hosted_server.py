"""Tests of popserv.testing.hosted_server, in the process of the tests."""

import os
import poplib
import socket
import stat
import sys
from unittest.mock import patch

from twisted.internet import reactor
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from popserv.testing import Faults
from popserv.testing.authority import Authority
from popserv.testing.hosted_server import HostedServer
from popserv.testing.settings import ServerSettings

TIMEOUT = 60


class HostedServerTests(TestCase):
    """A server in a process with a reactor."""

    def setUp(self):
        """Make a directory."""
        self.directory = os.path.abspath(self.mktemp())
        os.mkdir(self.directory)

    def start(self, users=None, apop_users=None, mail=None, certificate=None):
        """Return a server with these settings."""
        settings = ServerSettings(
            {b"ann": b"secret"} if users is None else users,
            apop_users or {},
            mail or {},
            certificate,
            Faults(),
        )
        server = HostedServer(settings, self.directory, self.authority, reactor)
        self.addCleanup(server.stop)
        return server

    def authority(self):
        """Return an authority."""
        return Authority(self.directory)

    async def test_users(self):
        """Users log in with any octets as a password, by PASS and by APOP; others cannot."""
        server = self.start({b"ann": b"a: \xc3\xa4 1"}, {b"bob": b"tan staaf"})

        def log_in():
            with_password, with_apop, wrong = (
                poplib.POP3("127.0.0.1", server.port, TIMEOUT) for _ in range(3)
            )
            with_password._shortcmd("USER ann")
            with_password._putline("PASS a: ä 1".encode())
            replies = [with_password._getresp(), with_apop.apop("bob", "tan staaf")]
            self.assertRaises(poplib.error_proto, wrong.apop, "ann", "a")
            for client in (with_password, with_apop, wrong):
                client.quit()
            return replies

        replies = await deferToThread(log_in)
        self.assertEqual([reply[:9] for reply in replies], [b"+OK ann's", b"+OK bob's"])
        mode = os.stat(os.path.join(self.directory, "users")).st_mode
        self.assertEqual(stat.S_IMODE(mode), 0o600)

    async def test_state(self):
        """The state has the transcript, and the messages that are left."""
        server = self.start(mail={b"ann": [b"one\n", b"two\n"]})

        def session():
            client = poplib.POP3("127.0.0.1", server.port, TIMEOUT)
            client.user("ann")
            client.pass_("secret")
            client.dele(1)
            client.quit()

        await deferToThread(session)
        state = server.state()
        self.assertEqual(state.mail, {b"ann": {b"m2": b"two\n"}})
        commands = [line.text for line in state.lines if line.sender == "C"]
        self.assertEqual(commands, [b"USER ann", b"PASS secret", b"DELE 1", b"QUIT"])
        self.assertEqual(state.errors, [])

    async def test_errors(self):
        """An error belongs to the server of its client, or to all if it has no client."""
        server = self.start()
        server.factory.peers.add("127.0.0.1:1")
        for peer in ("127.0.0.1:1", "127.0.0.1:2", None):
            server.add_error(f"error of {peer}", peer)
        self.assertEqual(server.state().errors, ["error of 127.0.0.1:1", "error of None"])

    async def test_ports(self):
        """With a certificate there are two ports; stop closes them and all connections."""
        server = self.start(certificate="valid")
        self.assertNotEqual(server.port, server.tls_port)
        client = socket.create_connection(("127.0.0.1", server.port), TIMEOUT)
        self.addCleanup(client.close)
        self.assertEqual(await deferToThread(client.recv, 3), b"+OK")
        await server.stop()
        await server.stop()
        self.assertEqual(server.factory.open, set())
        for port in (server.port, server.tls_port):
            with self.assertRaises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), TIMEOUT)

    async def test_no_tls(self):
        """Without a certificate there is neither a second port nor STLS."""
        server = self.start()
        self.assertIsNone(server.tls_port)
        self.assertIsNone(server.factory.tls)

    async def test_missing_extra(self):
        """If the extra tls is not installed, the error names the command that installs it."""
        with (
            patch.dict(sys.modules, {"popserv.tls": None}),
            self.assertRaisesRegex(ImportError, "requires the extra tls; run: .* pip install "),
        ):
            self.start(certificate="valid")
