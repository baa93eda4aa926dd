"""Tests of popserv.commandline.compare; tests.live has real servers."""

import getpass
import io
import os
from unittest import mock

from popserv.commandline.user_lines import MAX_LINES
from tests.commandline.harness import CommandCase
from tests.commandline.test_user import FakeTerminal
from tests.migration.harness import FakeServer, stuffed
from tests.migration.test_comparison import A, B, C


class CompareTests(CommandCase):
    """``popserv compare`` with fake servers."""

    def passwords(self, text=b"ann:secret\n"):
        """Write a file with passwords; return its path."""
        path = os.path.join(self.directory, "passwords")
        with open(path, "wb") as file:
            file.write(text)
        os.chmod(path, 0o600)
        return path

    def compare(self, old, new, *arguments, stdin=None):
        """Run the command with two servers; return the exit code, the lines, and the errors."""
        if not arguments:
            arguments = ("--users", self.passwords())
        code, out, err = self.run_command(["compare", old.url, new.url, *arguments], stdin)
        for server in (old, new):
            self.assertEqual(server.changes, [])
        return code, out.splitlines(), err

    def test_equal(self):
        """Nothing differs: exit code 0."""
        servers = [FakeServer(self, [A, B]) for _ in range(2)]
        self.assertEqual(
            self.compare(*servers),
            (
                0,
                [
                    "ann: clients would fetch none of 2 messages again",
                    "users: 1 compared, 0 failed",
                    "messages: 2 on both servers, 0 of them fetched again, 0 different; "
                    "0 missing on the new server, 0 on the old one; 0 never fetched",
                ],
                "",
            ),
        )

    def test_differences(self):
        """Each difference is told: exit code 1."""
        changed = (b"b", B[1].replace(b"body", b"baby"))
        never = (b"x", A[1].replace(b"A: 1", b"A: 2"))
        old = FakeServer(self, [A, B, C, (b"x", b"X: 1\r\n\r\n")], capa=[b"TOP", b"SASL A B"])
        new = FakeServer(self, [(b"z", C[1]), changed, never, A], capa=[b"SASL A"])
        code, lines, err = self.compare(old, new)
        self.assertEqual((code, err), (1, ""))
        self.assertEqual(
            lines,
            [
                "ann: clients would fetch 1 of 3 messages again",
                "ann: the order differs: 2 messages in another place",
                "ann: message 3 of the new server: clients would take it for another message with "
                "unique-id x, and not fetch it",
                "ann: message 2, on the new server 2: it is not the same on both",
                "ann: message 4, unique-id x: the new server does not have it",
                "ann: message 3 of the new server, unique-id x: the old server does not have it",
                "the new server does not have the capability TOP (1 of 1 users)",
                "the new server does not have the capability SASL B (1 of 1 users)",
                "users: 1 compared, 0 failed",
                "messages: 3 on both servers, 1 of them fetched again, 1 different; "
                "1 missing on the new server, 1 on the old one; 1 never fetched",
            ],
        )

    def test_all(self):
        """With other unique-ids, clients fetch all mail again; the order may differ by one."""
        old, new = FakeServer(self, [A, B]), FakeServer(self, [(b"y", B[1]), (b"z", A[1])])
        code, lines, _ = self.compare(old, new)
        self.assertEqual(code, 1)
        self.assertEqual(lines[0], "ann: clients would fetch all of 2 messages again")
        self.assertEqual(lines[1], "ann: the order differs: 1 message in another place")

    def test_interrupted(self):
        """An interruption is not a difference."""
        server = FakeServer(self, [A])
        with mock.patch("popserv.commandline.compare.logged_in", side_effect=KeyboardInterrupt):
            code, lines, err = self.compare(server, server)
        self.assertEqual((code, lines, err), (2, [], "popserv: interrupted\n"))

    def test_other_octets(self):
        """It is told that a server sends other octets than LIST says."""
        servers = [
            FakeServer(self, [A], replies={b"LIST": stuffed(b"1 %d\r\n" % octets)})
            for octets in (len(A[1]), 3)
        ]
        code, lines, _ = self.compare(*servers)
        self.assertEqual(code, 0)
        self.assertTrue(lines[1].startswith("ann: new server: 1 message came with other octets"))

    def test_many_lines(self):
        """Lines about messages are limited for each user."""
        many = [(b"%d" % n, b"N: %d\r\n\r\n" % n) for n in range(50)]
        _, lines, _ = self.compare(FakeServer(self, many), FakeServer(self))
        self.assertEqual(lines[MAX_LINES + 1], f"ann: and {50 - MAX_LINES} more")

    def test_sizes_only(self):
        """With --sizes-only, no message is fetched."""
        servers = [FakeServer(self, [A]) for _ in range(2)]
        options = ("--sizes-only", "--users", self.passwords())
        self.assertEqual(self.compare(*servers, *options)[0], 0)
        self.assertNotIn(b"RETR 1", servers[0].commands + servers[1].commands)

    def test_users(self):
        """A user who cannot be compared is told, and the others are: exit code 2."""
        old, new = FakeServer(self, [A]), FakeServer(self, [A])
        new.replies[b"PASS bad"] = b"-ERR no\r\n"
        path = self.passwords(b"ann:bad\nbob:secret\n")
        code, lines, err = self.compare(old, new, "--users", path)
        self.assertEqual(code, 2)
        self.assertEqual(lines[0], "bob: clients would fetch none of 1 messages again")
        self.assertEqual(lines[1], "users: 1 compared, 1 failed")
        self.assertEqual(err, f'popserv: ann: localhost:{new.port}: PASS was refused: "no"\n')
        code, lines, err = self.compare(old, new, "--users", path, "--user", "bob")
        self.assertEqual((code, len(lines), err), (0, 3, ""))
        code, lines, _ = self.compare(old, new, "--users", path, "--user", "ann")
        self.assertEqual((code, len(lines)), (2, 2))

    def test_prompt(self):
        """The password of one user is read from standard input, or asked for on a terminal."""
        old, new = FakeServer(self), FakeServer(self)
        stream = io.TextIOWrapper(io.BytesIO(b"se cret\r\nx\n"), encoding="utf-8")
        self.assertEqual(self.compare(old, new, "--user", "ann", stdin=stream)[0], 0)
        self.assertIn(b"PASS se cret", new.commands)
        self.patch(getpass, "getpass", lambda: "typed")
        self.assertEqual(self.compare(old, new, "--user", "ann", stdin=FakeTerminal())[0], 0)
        self.assertIn(b"PASS typed", new.commands)

    def test_usage(self):
        """Invalid options are told before any server is asked: exit code 2."""
        good, ann = "pop3://127.0.0.1:1", ("--user", "ann")
        for message, *arguments in (
            ("give --user NAME once, or --users", good, good),
            ("give --user NAME once, or --users", good, good, *ann, "--user", "bob"),
            ("has no password of bob", good, good, "--users", self.passwords(), "--user", "bob"),
            ("x is not pop3://HOST:PORT", "x", good, *ann),
            ("imap://h is not pop3://HOST:PORT", good, "imap://h", *ann),
            ("--ca-file /nowhere: ", good, good, *ann, "--ca-file", "/nowhere"),
            ("--users: /nowhere: No such file", good, good, "--users", "/nowhere"),
        ):
            code, out, err = self.run_command(["compare", *arguments])
            self.assertEqual((code, out, err.count("\n")), (2, "", 1), arguments)
            self.assertIn(message, err)
