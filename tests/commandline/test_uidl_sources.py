"""Tests of popserv.commandline.uidl_sources."""

import os
from contextlib import contextmanager
from unittest import mock

from popserv.commandline import uidl_sources
from popserv.migration.pop3_urls import Security
from tests.commandline.test_uidl import UidlCase
from tests.migration.test_matching import Messages
from tests.options.harness import CA


class SourceTests(UidlCase):
    """What --from and its options mean."""

    def assert_refused(self, message, *arguments, code=2):
        """Check that an import fails with one line, and changes nothing."""
        done, out, err = self.uidl("import", *arguments)
        self.assertEqual((done, out), (code, ""))
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
            ("--from dovcot: /", "--from", "dovcot"),
            (
                "/dovcot: No such file or directory; give the file of popserv uidl export, "
                "dovecot, courier, a template such as %v.%u, or pop3s://HOST\n",
                "--from",
                "dovcot",
            ),
            ("--from /: /: Is a directory", "--from", "/"),
            ("the file has no line", "--from", self.put("empty", b"# none\n")),
            ("line 1: it is not a user name", "--from", self.put("list", b"x\n")),
            ("require --from pop3s://HOST", "--from", "dovecot", "--users", "x"),
            ("require --from pop3s://HOST", "--from", "dovecot", "--insecure"),
            ("requires --users FILE", "--from", "pop3s://h"),
            (
                "--from: imap://h is not pop3://HOST",
                "--from",
                "imap://h",
                "--users",
                self.passwords(),
            ),
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
            ("--users: /nowhere: No such file", "--from", "pop3s://h", "--users", "/nowhere"),
        ):
            with self.subTest(arguments=arguments):
                self.assert_refused(message, *arguments)

    def test_server(self):
        """Each user of the file is logged in, and the messages are matched."""
        remote = Messages([b"Subject: x\n\nbody\n"])
        remote.unique_ids = [b"old"]
        logins = []

        @contextmanager
        def logged_in(address, security, user, password):
            logins.append((address, security, user, password))
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
            (address, security, user, password), *_ = logins
            self.assertEqual((address.host, user, password), ("pop.example.org", b"ann", b"secret"))
            self.assertEqual(security, Security(ca))
            self.assert_refused("has no password of bob", *options, "bob", code=1)
            self.uidl("import", *options, "--insecure")
            self.assertEqual(logins[-1][1], Security(ca, insecure=True))
        self.assertEqual(self.shown(), {b"2.b": b"old"})
