"""``popserv compare`` between a real Dovecot with its defaults and popserv."""

import os

from tests.live.dovecot_pop3 import DovecotPOP3
from tests.live.harness import SAMPLES, ServerTestCase, run, temporary_directory


class CompareTests(ServerTestCase):
    """Both servers have the same Maildir."""

    def setUp(self):
        """Let Dovecot serve a user of popserv's, with three messages."""
        self.name, self.maildir = self.server.add_user(SAMPLES[:3])
        self.dovecot = DovecotPOP3(self, self.server.root)
        os.chmod(self.server.root, 0o755)
        self.dovecot.give(self.maildir)
        self.dovecot.start()
        # Dovecot moves messages to cur/ whenever it opens a Maildir.
        self.dovecot.unique_ids(self.name)
        self.users = temporary_directory(self) / "users"
        self.users.write_text(f"{self.name}:secret\n")
        self.users.chmod(0o600)

    def files(self):
        """Return the message files, with all that a session could change."""
        status = {path: path.stat() for path in self.maildir.glob("[cn]*/*")}
        return {path: (each.st_mtime_ns, each.st_size) for path, each in status.items()}

    def compare(self, *ports):
        """Run the command; return what it prints of the user, and of capabilities."""
        before = self.files()
        urls = [f"pop3://127.0.0.1:{port}" for port in ports]
        done = run("popserv", "compare", *urls, "--users", self.users)
        self.assertEqual(done.stderr, b"", repr(done))
        self.assertEqual(self.files(), before)
        self.assertEqual({path.name.rpartition(",")[2] for path in before}, {""})
        return done.returncode, done.stdout.decode().splitlines()

    def test_unique_ids(self):
        """Without the import, clients fetch all mail again, and after it none; flags stay."""
        code, lines = self.compare(self.dovecot.port, self.server.port)
        self.assertEqual(lines[0], f"{self.name}: clients would fetch all of 3 messages again")
        self.assertIn(
            "messages: 3 on both servers, 3 of them fetched again, 0 different; "
            "0 missing on the new server, 0 on the old one; 0 never fetched",
            lines,
        )
        self.assertEqual(code, 1)
        done = run("popserv", "uidl", "import", "--maildir", self.server.root, "--from", "dovecot")
        self.assertEqual(done.returncode, 0, repr(done))
        _, lines = self.compare(self.dovecot.port, self.server.port)
        self.assertEqual(lines[0], f"{self.name}: clients would fetch none of 3 messages again")
        self.assertEqual([line for line in lines if line.startswith(f"{self.name}: ")], lines[:1])

    def test_equal(self):
        """A server compared with itself has no difference."""
        for port in (self.dovecot.port, self.server.port):
            code, lines = self.compare(port, port)
            self.assertEqual((code, len(lines)), (0, 3), lines)
