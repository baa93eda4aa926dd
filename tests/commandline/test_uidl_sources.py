"""Tests of popserv.commandline.uidl_sources."""

import os
from contextlib import contextmanager
from unittest import mock

from popserv.commandline import uidl_sources
from popserv.commandline.uidl_sources import read_passwords
from tests.commandline.harness import CA
from tests.commandline.test_uidl import UidlCase
from tests.migration.test_matching import Messages


class SourceTests(UidlCase):
    """What --from and its options mean."""

    def assert_refused(self, message, *arguments):
        """Check that an import fails with one line, and changes nothing."""
        code, out, err = self.uidl("import", *arguments)
        self.assertEqual((code, out), (1, ""))
        self.assertIn(message, err)
        self.assertEqual(err.count("\n"), 1)

    def passwords(self, octets=b"ann:secret\n"):
        """Write a file with passwords; return its path."""
        path = self.put("passwords", octets)
        os.chmod(path, 0o600)
        return path

    def test_invalid(self):
        """An invalid source, or an option without its source, is refused."""
        for message, *arguments in (
            ("--from %x: %x is not known", "--from", "%x"),
            ("/nowhere: No such file", "--from", "/nowhere"),
            ("line 1: it is not a user name", "--from", self.put("list", b"x\n")),
            ("require --from pop3s://HOST", "--from", "dovecot", "--users", "x"),
            ("require --from pop3s://HOST", "--from", "dovecot", "--insecure"),
            ("requires --users FILE", "--from", "pop3s://h"),
            ("--from: imap://h is not a server", "--from", "imap://h", "--users", self.passwords()),
            (
                "--ca-file /nowhere: No such file",
                "--from",
                "pop3s://h",
                "--users",
                "x",
                "--ca-file",
                "/nowhere",
            ),
            (
                "--ca-file ",
                "--from",
                "pop3s://h",
                "--users",
                "x",
                "--ca-file",
                self.put("pem", b"x"),
            ),
            ("/nowhere: No such file", "--from", "pop3s://h", "--users", "/nowhere"),
        ):
            with self.subTest(arguments=arguments):
                self.assert_refused(message, *arguments)

    def test_passwords(self):
        """A file of passwords has lines with a colon, and is private."""
        path = self.passwords(b"# text\n\nann:se:cret\nbob:\n")
        self.assertEqual(read_passwords(path), {b"ann": b"se:cret", b"bob": b""})
        os.chmod(path, 0o644)
        self.assertIn("chmod o=", str(self.assertRaises(ValueError, read_passwords, path)))
        for line in (b"ann", b":secret"):
            path = self.passwords(b"bob:x\n" + line)
            error = self.assertRaises(ValueError, read_passwords, path)
            self.assertIn("line 2: it is not a name, a colon and a password", str(error))

    def test_server(self):
        """Each user of the file is logged in, and the messages are matched."""
        remote = Messages([b"Subject: x\n\nbody\n"])
        remote.unique_ids = [b"old"]
        logins = []

        @contextmanager
        def logged_in(server, user, password):
            logins.append((server, user, password))
            yield remote

        os.unlink(os.path.join(self.directory, "ann", "new", "1.a"))
        ca = self.put("ca.pem", CA.certificate_pem())
        options = (
            "--from",
            "pop3s://pop.example.org",
            "--users",
            self.passwords(),
            "--ca-file",
            ca,
        )
        with mock.patch.object(uidl_sources, "logged_in", logged_in):
            done = self.uidl("import", *options)
            self.assertEqual(done, (0, "ann: 1 of 1 messages have their old unique-ids\n", ""))
            (server, user, password), *_ = logins
            self.assertEqual((server.host, user, password), ("pop.example.org", b"ann", b"secret"))
            self.assertEqual(server.context.cert_store_stats()["x509_ca"], 1)
            self.assert_refused("has no password of bob", *options, "bob")
            self.assertTrue(server.context.check_hostname)
            self.uidl("import", *options, "--insecure")
            self.assertFalse(logins[-1][0].context.check_hostname)
            self.assertTrue(logins[-1][0].allows_plaintext)
        self.assertEqual(self.shown(), {b"2.b": b"old"})
