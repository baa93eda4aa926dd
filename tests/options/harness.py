"""Helpers that the tests of options share."""

import os

from twisted.internet.testing import EventLoggingObserver
from twisted.logger import globalLogPublisher
from twisted.python import usage
from twisted.trial.unittest import TestCase

from popserv.auth.passwords.users_file import default_path
from popserv.auth.passwords.users_file_editing import set_secret
from popserv.options import server
from popserv.options.server import Options
from tests.certificates import issue, make_authority
from tests.signals import preserve_signals

CA = make_authority()
SERVER = issue("pop.example.org", issuer=CA)


class OptionsCase(TestCase):
    """Tests of options, with a root directory and a users file in it."""

    def setUp(self):
        """Create the root directory and the users file, record the log, and have IPv6."""
        self.patch(server, "has_ipv6", lambda: True)
        preserve_signals(self)
        self.root = self.mktemp()
        os.makedirs(self.root)
        set_secret(default_path(self.root), b"joe", b"{PLAIN}secret", new=True)
        self.log = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)

    def write(self, name, octets):
        """Write a file in the root directory; return its path."""
        path = os.path.join(self.root, name)
        with open(path, "wb") as file:
            file.write(octets)
        return path

    def parse(self, *arguments):
        """Parse arguments of ``twistd pop3``; return the options."""
        parsed = Options()
        parsed.parseOptions(["--maildir", self.root, *arguments])
        return parsed

    def certificate(self):
        """Write a server certificate; return the arguments that name it."""
        return ["--certificate", self.write("pop.pem", SERVER.pem())]

    def assert_messages(self, cases):
        """Check that each list of arguments is rejected with a line that contains a message."""
        for arguments, message in cases:
            error = self.assertRaises(usage.UsageError, self.parse, *arguments)
            self.assertIn(message, str(error))
            self.assertNotIn("\n", str(error))
