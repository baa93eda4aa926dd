"""Tests of popserv.auth.ldap.sockets."""

import contextlib
import os
import socket
import threading
from pathlib import Path
from unittest import mock
from urllib.parse import quote, unquote, urlsplit

import ldap
from twisted.trial.unittest import SynchronousTestCase

from examples.cluster.processes import free_port
from popserv.auth.ldap.sockets import _shut_down, connected
from tests.live.harness import TIMEOUT


class ConnectedTests(SynchronousTestCase):
    """Connecting to a server, for some time."""

    def listen(self, backlog=5):
        """Listen on a local socket; return its URL."""
        path = Path(self.mktemp())
        listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(listener.close)
        listener.bind(str(path))
        listener.listen(backlog)
        return f"ldapi://{quote(str(path), safe='')}"

    def test_shut_down(self):
        """Who waits for a silent server is woken after the time."""
        with connected(self.listen(), 0.05) as opened, opened:
            self.assertEqual(opened.recv(1), b"")

    def timers(self):
        """Return the threads that wait to shut a socket down."""
        return [each for each in threading.enumerate() if isinstance(each, threading.Timer)]

    def test_given_away(self):
        """The number of the socket can be given away, and stays open; the timer ends."""
        with connected(self.listen(), TIMEOUT) as opened:
            # It does not keep the process from ending.
            self.assertEqual([each.daemon for each in self.timers()], [True])
            number = opened.detach()
        self.assertEqual(self.timers(), [])
        self.assertTrue(os.fstat(number))
        # libldap waits for what it reads.
        self.assertTrue(os.get_blocking(number))
        os.close(number)

    def test_ports(self):
        """The ports are those of RFC 4516 and of IANA, unless the URL has one."""
        for url, port in (("ldap://x", 389), ("ldaps://x", 636), ("ldaps://x:1389", 1389)):
            with (
                mock.patch.object(socket, "create_connection", side_effect=OSError) as connect,
                self.assertRaises(ldap.SERVER_DOWN),
                connected(url, TIMEOUT),
            ):
                pass
            connect.assert_called_once_with(("x", port), TIMEOUT)

    def test_busy(self):
        """A server on this machine that accepts no connections is away."""
        url = self.listen(backlog=0)
        with contextlib.ExitStack() as waiting:
            with contextlib.suppress(BlockingIOError):
                while True:
                    client = waiting.enter_context(socket.socket(socket.AF_UNIX))
                    client.setblocking(False)
                    client.connect(unquote(urlsplit(url).netloc))
            with self.assertRaises(ldap.SERVER_DOWN), connected(url, TIMEOUT):
                pass

    def test_no_server(self):
        """Without a server there is the error of libldap for it, with the reason."""
        away = f"ldap://127.0.0.1:{free_port()}"
        before = len(os.listdir("/dev/fd"))
        for url, reason in (
            (away, "Connection refused"),
            ("ldapi://%2Fnowhere%2Fldapi", "No such file or directory"),
        ):
            try:
                with connected(url, TIMEOUT):
                    self.fail("there is a server")
            except ldap.SERVER_DOWN as error:
                self.assertEqual(error.args, ({"desc": reason},))
                # Also while the error refers to the socket.
                self.assertEqual(len(os.listdir("/dev/fd")), before)

    def test_disconnected(self):
        """A connection that the server has closed meanwhile is no error."""
        with socket.socket() as never_connected:
            _shut_down(never_connected)
