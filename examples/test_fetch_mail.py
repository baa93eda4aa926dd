"""The tests of fetch_mail.py: ``python -m unittest test_fetch_mail``.

``python -m twisted.trial test_fetch_mail`` and ``python -m pytest`` run them as well.
"""

import shutil
import tempfile
import unittest
from pathlib import Path

from fetch_mail import FetchError, fetch

from popserv.testing import Faults, running_server

USERS = {"ann": "secret"}
MAIL = {"ann": [b"Subject: one\n\nThe first.\n", b"Subject: two\n\n.The second.\n"]}


class FetchTests(unittest.TestCase):
    """Each test has a server and a directory of its own."""

    def setUp(self):
        """Start the server."""
        self.server = running_server(USERS, mail=MAIL).start()
        self.addCleanup(self.server.stop)
        self.directory = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.directory)

    def fetch(self, password="secret", timeout=30):
        """Fetch; return the messages that are new."""
        host, port = self.server.host, self.server.port
        paths = fetch(host, port, "ann", password, self.directory, timeout=timeout)
        return [path.read_bytes() for path in paths]

    def fetched(self):
        """Return the number of messages in the directory."""
        return len(list(self.directory.iterdir()))

    def assert_fails(self, text, **arguments):
        """Fetch; the error must contain a text."""
        with self.assertRaisesRegex(FetchError, text):
            self.fetch(**arguments)

    def test_fetched_once(self):
        """All mail is fetched, later only what is new, and the server keeps it."""
        self.assertEqual(self.fetch(), MAIL["ann"])
        self.assertEqual(self.fetch(), [])
        self.server.deliver("ann", b"Subject: three\n\nThe third.\n")
        self.assertEqual(self.fetch(), [b"Subject: three\n\nThe third.\n"])
        self.assertEqual(len(self.server.messages("ann")), 3)

    def test_commands(self):
        """The program sends these commands, and QUIT at the end."""
        self.fetch()
        expected = ["USER ann", "PASS secret", "UIDL", "RETR 1", "RETR 2", "QUIT"]
        self.assertEqual(self.server.commands(), expected)

    def test_refused(self):
        """The error has the reason of the server."""
        self.assert_fails("AUTH", password="wrong")
        self.server.faults = Faults(lock_held=True)
        self.assert_fails("IN-USE")
        self.server.faults = Faults(unknown_commands=["UIDL"])
        self.assert_fails("unknown command")
        self.assertEqual(self.fetched(), 0)

    def test_failed_message(self):
        """If a message cannot be fetched, the next run fetches it, and no other again."""
        self.server.faults = Faults(fail_retr=2)
        self.assert_fails("SYS/TEMP")
        self.assertEqual(self.fetched(), 1)
        self.assertEqual(self.fetch(), MAIL["ann"][1:])

    def test_dropped(self):
        """A connection that is closed within a message leaves no part of it."""
        for octets in range(0, 30, 5):
            self.server.faults = Faults(drop_retr=(1, octets))
            self.assert_fails("EOF")
            self.assertEqual(self.fetched(), 0)

    def test_silent_server(self):
        """A server that does not end its response is an error after the time-out."""
        self.server.faults = Faults(unterminated_retr=1)
        self.assert_fails("timed out", timeout=0.2)

    def test_slow_server(self):
        """A server that sends slowly is none: the time-out is for each packet."""
        self.server.faults = Faults(octets_per_second=1000, reply_delay=0.01)
        self.assertEqual(self.fetch(), MAIL["ann"])


class TLSTests(unittest.TestCase):
    """The certificate of the server is verified."""

    def fetch(self, server):
        """Fetch over TLS; return how many messages were new."""
        context = server.client_context()
        with tempfile.TemporaryDirectory() as directory:
            return len(
                fetch("localhost", server.tls_port, "ann", "secret", directory, context=context)
            )

    def test_valid(self):
        """A certificate that the CA has issued for this host is accepted."""
        with running_server(USERS, mail=MAIL, tls=True) as server:
            self.assertEqual(self.fetch(server), 2)

    def test_invalid(self):
        """No other is accepted, and no password is sent."""
        for certificate in ("expired", "untrusted", "wrong-host"):
            with running_server(USERS, tls=True, certificate=certificate) as server:
                with self.assertRaisesRegex(FetchError, "CERTIFICATE_VERIFY_FAILED"):
                    self.fetch(server)
                self.assertEqual(server.commands(), [])


if __name__ == "__main__":
    unittest.main()
