"""Signatures of messages are valid for clients: openssl verifies what the server has sent."""

import subprocess

from twisted.trial.unittest import TestCase

from tests.certificates import issue
from tests.live.harness import (
    Server,
    downgraded,
    require_programs,
    split_lines,
    temporary_directory,
    wire_form,
)

HEADER = "From: Jörg <joerg@example.org>\nSubject: über\n".encode()
PART = (
    "Content-Type: multipart/mixed; boundary=a\n\n--a\nContent-Type: text/plain; charset=utf-8\n"
    "Content-Transfer-Encoding: 8bit\n\nGrüße\n--a\nContent-Type: application/pdf\n"
    'Content-Disposition: attachment; filename="{}.pdf"\n\n%PDF\n--a--\n'
)


class SMIMETests(TestCase):
    """Messages that openssl has signed (RFC 8551)."""

    def setUp(self):
        """Make a certificate and its key."""
        require_programs(self, "openssl")
        self.directory = temporary_directory(self)
        self.pem = self.directory / "cert.pem"
        self.pem.write_bytes(issue("joerg@example.org").pem())

    def cms(self, octets, *arguments):
        """Run ``openssl cms`` with octets as its input; return the completed process."""
        command = ("openssl", "cms", *arguments)
        return subprocess.run(command, input=octets, capture_output=True, timeout=60, check=False)

    def signed(self, name):
        """Return a message with a signed part, in which a file has this name."""
        signed = self.cms(wire_form(PART.format(name).encode()), "-sign", "-signer", self.pem)
        self.assertIn(b"multipart/signed", signed.stdout, signed.stderr)
        return HEADER + b"\n".join(split_lines(signed.stdout)) + b"\n"

    def is_valid(self, message):
        """Return whether a message as a client has received it has a valid signature."""
        received = b"".join(line + b"\r\n" for line in message)
        return self.cms(received, "-verify", "-noverify").returncode == 0

    def messages(self, connection, count=2):
        """Return the lines of each message, or the status line if the server refuses it."""
        found = []
        for number in range(1, count + 1):
            status = connection.ask(b"RETR %d" % number)
            found.append(connection.lines() if status.startswith(b"+OK") else status)
        return found

    def test_signatures(self):
        """By default all are valid; with --utf8 all that are sent, and UTF8 gives the others."""
        stored = [self.signed("uber"), self.signed("über")]
        for options in ((), ("--utf8",)):
            server = Server(*options)
            try:
                name, _ = server.add_user(stored)
                connection = server.login(name)
                self.addCleanup(connection.abandon)
                if options:
                    message, refusal = self.messages(connection)
                    self.assertEqual(message, split_lines(downgraded(stored[0])))
                    self.assertNotEqual(message, split_lines(stored[0]))
                    self.assertTrue(self.is_valid(message))
                    self.assertEqual(refusal, b"-ERR [UTF8] message requires the UTF8 command")
                    self.assertRegex(connection.ask(b"UTF8"), rb"^\+OK")
                received = self.messages(connection)
                self.assertEqual(received, [*map(split_lines, stored)])
                self.assertEqual([*map(self.is_valid, received)], [True, True])
                connection.close()
            finally:
                server.stop()
        changed = stored[1].replace("über.pdf".encode(), b"uber.pdf")
        self.assertFalse(self.is_valid(split_lines(changed)))
