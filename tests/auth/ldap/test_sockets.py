"""Tests of popserv.auth.ldap.sockets."""

import os
import socket
from pathlib import Path
from urllib.parse import quote

import ldap
from twisted.trial.unittest import SynchronousTestCase

from examples.cluster.processes import free_port
from popserv.auth.ldap.sockets import _shut_down, connected
from tests.live.harness import TIMEOUT


class ConnectedTests(SynchronousTestCase):
    """Connecting to a server, for some time."""

    def listen(self):
        """Listen on a local socket; return its URL."""
        path = Path(self.mktemp())
        listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(listener.close)
        listener.bind(str(path))
        listener.listen()
        return f"ldapi://{quote(str(path), safe='')}"

    def test_shut_down(self):
        """Who waits for a silent server is woken after the time."""
        with connected(self.listen(), 0.05) as opened, opened:
            self.assertEqual(opened.recv(1), b"")

    def test_given_away(self):
        """The number of the socket can be given away, and stays open."""
        with connected(self.listen(), TIMEOUT) as opened:
            number = opened.detach()
        self.assertTrue(os.fstat(number))
        os.close(number)

    def test_no_server(self):
        """Without a server there is the error of libldap for it, with the reason."""
        for url, reason in (
            (f"ldap://127.0.0.1:{free_port()}", "Connection refused"),
            ("ldapi://%2Fnowhere%2Fldapi", "No such file or directory"),
        ):
            with self.assertRaises(ldap.SERVER_DOWN) as caught, connected(url, TIMEOUT):
                pass
            self.assertEqual(caught.exception.args, ({"desc": reason},))

    def test_disconnected(self):
        """A connection that the server has closed meanwhile is no error."""
        with socket.socket() as never_connected:
            _shut_down(never_connected)
