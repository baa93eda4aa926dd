"""``twistd pop3 --config`` as administrators use it."""

import os
import re
import signal
from pathlib import Path

from twisted.trial.unittest import TestCase

from popserv.auth.passwords.users_file_editing import set_secret
from tests.certificates import issue
from tests.live.harness import CHECKOUT, Server, deliver, run, temporary_directory, until


class ConfigTests(TestCase):
    """A server whose options are in a file."""

    def setUp(self):
        """Write the file, and a maildrop."""
        self.directory = temporary_directory(self)
        self.root = self.directory / "mail"
        deliver(self.root / "joe", [b"x\n"])
        set_secret(str(self.root / ".users"), b"joe", b"{PLAIN}secret", new=True)
        self.file = self.directory / "popserv.toml"
        self.file.write_text(
            f"maildir = '{self.root}'\nlisten = 'tcp:0:interface=127.0.0.1'\n"
            "workers = 2\nhide-version = true\n"
        )
        self.file.chmod(0o600)

    def start(self):
        """Start the server; the options of the file replace none of the command line."""
        server = Server("--config", self.file, root=self.root)
        self.addCleanup(server.stop)
        return server

    def pids(self, server):
        """Return the processes of the workers."""
        return list(map(int, re.findall(r"worker \d started, pid (\d+)", server.log)))

    def test_workers(self):
        """Workers have the options of the file, also when it has changed or is away."""
        server = self.start()
        until(lambda: len(self.pids(server)) == 2, "two workers")
        self.file.write_text("listen = 1\n")
        os.kill(server.process.pid, signal.SIGHUP)
        until(lambda: f"{self.file} has changed; restart the server" in server.log, "the warning")
        self.file.unlink()
        for pid in self.pids(server):
            os.kill(pid, signal.SIGKILL)
        until(lambda: len(self.pids(server)) == 4, "two more workers")
        connection = server.login("joe")
        connection.ask(b"CAPA")
        self.assertNotIn("IMPLEMENTATION", b" ".join(connection.lines()).decode())
        connection.close()

    def test_mistake(self):
        """A server does not start with a mistake in the file, and prints where it is."""
        self.file.write_text("maildir = 'mail'\n\ntimeuot = 1\n")
        done = run("twistd", "-n", "--pidfile=", "pop3", "--config", self.file)
        self.assertEqual(done.returncode, 1)
        self.assertIn(f"{self.file}, line 3: timeuot is not an option".encode(), done.stderr)

    def test_sample(self):
        """The sample in contrib is valid, and its lines are those that the server uses."""
        sample = Path(CHECKOUT, "contrib/popserv.toml").read_text()
        self.file.write_text(re.sub(r"/(?=srv|etc)", f"{self.directory}/", sample))
        (self.directory / "srv/mail").mkdir(parents=True)
        (self.directory / "etc/popserv").mkdir(parents=True)
        issued = issue("pop.example.org")
        (self.directory / "etc/popserv/cert.pem").write_bytes(issued.certificate_pem())
        (self.directory / "etc/popserv/key.pem").write_bytes(issued.key_pem())
        set_secret(f"{self.directory}/etc/popserv/users", b"joe", b"{PLAIN}secret", new=True)
        done = run("popserv", "config", "check", "--config", self.file)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, b"", b""))
        shown = run("popserv", "config", "show", "--config", self.file).stdout.decode()
        for line in filter(re.compile(r"^[a-z-]+ = ").match, self.file.read_text().splitlines()):
            key, _, value = line.partition(" = ")
            expected = f"[{value}]" if key == "auth" else value
            self.assertIn(f"{key} = {expected}  # {self.file}, line ", shown)
