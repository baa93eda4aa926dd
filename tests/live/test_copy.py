"""``popserv copy`` from real servers and programs, and interrupted by the kernel."""

import os
import re
import shutil
from itertools import pairwise

from twisted.trial.unittest import SynchronousTestCase

from tests.live.dovecot_pop3 import DovecotPOP3
from tests.live.harness import (
    BIN,
    SAMPLES,
    Fetchmail,
    ServerTestCase,
    read_maildir,
    require_programs,
    run,
    temporary_directory,
)
from tests.live.test_mbox import message


class FromDovecotTests(ServerTestCase):
    """A Dovecot with its defaults is replaced by popserv."""

    def setUp(self):
        """Let Dovecot serve a user, with three messages, two of them with flags."""
        self.name, self.maildir = self.server.add_user()
        self.dovecot = DovecotPOP3(self)
        self.dovecot.mail.chmod(0o755)
        self.old = self.dovecot.deliver(self.name, SAMPLES[:3])
        self.unique_ids = self.dovecot.unique_ids(self.name)
        for at, (path, flags) in enumerate(
            zip(sorted((self.old / "cur").iterdir()), ("S", "", "FRS"), strict=True)
        ):
            path = path.rename(path.with_name(path.name.partition(":")[0] + f":2,{flags}"))
            os.utime(path, (1_600_000_000 + at, 1_600_000_000 + at))
        self.dovecot.start()
        self.users = temporary_directory(self) / "users"
        self.users.write_text(f"{self.name}:secret\n")
        self.users.chmod(0o600)

    def copy(self, source, *options):
        """Copy to the Maildirs of popserv; return what is printed for the user."""
        done = run("popserv", "copy", source, f"maildir:{self.server.root}", *options)
        self.assertEqual(done.returncode, 0, repr(done))
        return done.stdout.decode().splitlines()[0]

    def assert_moved(self):
        """Check that clients fetch nothing again."""
        urls = [f"pop3://127.0.0.1:{port}" for port in (self.dovecot.port, self.server.port)]
        done = run("popserv", "compare", *urls, "--users", self.users)
        lines = done.stdout.decode().splitlines()
        self.assertEqual(lines[0], f"{self.name}: clients would fetch none of 3 messages again")
        self.assertEqual([line for line in lines if line.startswith(self.name)], lines[:1])
        self.assertIn("3 on both servers, 0 of them fetched again, 0 different", lines[-1])

    def test_maildirs(self):
        """Unique-ids, octets, order, times and flags are those of Dovecot's Maildir."""
        before = read_maildir(self.old)
        expected = f"{self.name}: 3 messages copied, 0 are there already"
        source = f"maildir:{self.dovecot.mail}"
        self.assertEqual(self.copy(source, "--uidl", "dovecot"), expected)
        self.assertEqual(read_maildir(self.old), before)
        self.assert_moved()
        paths = sorted(self.maildir.glob("[cn]*/*"), key=lambda path: path.stat().st_mtime)
        times = [path.stat().st_mtime for path in paths]
        self.assertEqual(times, [1_600_000_000, 1_600_000_001, 1_600_000_002])
        suffixes = [path.name.partition(":")[2] for path in paths]
        self.assertEqual(suffixes, ["2,S", "", "2,FRS"])
        again = f"{self.name}: 0 messages copied, 3 are there already"
        self.assertEqual(self.copy(source, "--uidl", "dovecot"), again)

    def test_server(self):
        """A client that has fetched mail from Dovecot by POP3 finds nothing new after the copy."""
        fetchmail = Fetchmail(
            self,
            f"service {self.dovecot.port} uidl proto pop3 auth password user {self.name} "
            'password secret keep sslproto ""',
        )
        fetchmail.fetch()
        self.assertEqual(len(fetchmail.messages()), 3)
        expected = f"{self.name}: 3 messages copied, 0 are there already"
        url = f"pop3://127.0.0.1:{self.dovecot.port}"
        self.assertEqual(self.copy(url, "--users", self.users), expected)
        self.assert_moved()
        rc = fetchmail.home / "rc"
        ports = f"service {self.dovecot.port} ", f"service {self.server.port} "
        rc.write_text(rc.read_text().replace(*ports))
        fetchmail.fetch(nothing_new=True)
        self.assertEqual(len(fetchmail.messages()), 3)


class InterruptedTests(SynchronousTestCase):
    """Copies of mail that real programs have delivered, killed by the kernel."""

    def setUp(self):
        """Let procmail deliver to an mbox file."""
        require_programs(self, "strace", "procmail")
        self.root = temporary_directory(self)
        for name in ("mbox", "maildir", "mh", "new-mbox"):
            (self.root / name).mkdir()
        recipe = self.root / "recipe"
        recipe.write_text(f"DEFAULT={self.root}/mbox/ann\n")
        for number in range(3):
            done = run("procmail", "-f", "ann@example.org", recipe, input=message(number))
            self.assertEqual(done.returncode, 0, repr(done))

    def copy(self, destination, *before, source="mbox:mbox"):
        """Copy from the mbox file; return the exit code."""
        stores = [each.replace(":", f":{self.root}/") for each in (source, destination)]
        return run(*before, BIN / "popserv", "copy", *stores).returncode

    def snapshot(self, name):
        """Return the unique-ids and bodies that sessions show."""
        done = run(
            *(
                "popserv",
                "session",
                "--user",
                "ann",
                "--store",
                name.replace(":", f":{self.root}/"),
            ),
            input=b"UIDL\r\nRETR 1\r\nRETR 2\r\nRETR 3\r\nQUIT\r\n",
        )
        added = rb"(?m)^(?:X-UIDL|Status|X-Status|Content-Length): .*\n|^\+OK.*\n"
        return re.sub(added, b"", done.stdout.replace(b"\r\n", b"\n"))

    def test_killed(self):
        """After kill -9 in a system call, the same command completes each copy."""
        expected = self.snapshot("mbox:mbox")
        self.assertIn(b"Subject: message 2\n", expected)
        for destination, calls in (
            ("maildir:maildir", ("renameat:1", "fsync:1")),
            ("mh:mh", ("linkat:1", "fsync:1")),
            ("mbox:new-mbox", ("pwrite64:1", "fsync:1")),
        ):
            for call in calls:
                with self.subTest(destination=destination, call=call):
                    names, _, number = call.partition(":")
                    inject = f"inject={names}:signal=SIGKILL:when={number}"
                    strace = ("strace", "-f", "-o", "/dev/null", "-e", inject)
                    self.assertEqual(self.copy(destination, *strace), -9)
                    self.assertEqual(self.copy(destination), 0)
                    self.assertEqual(self.snapshot(destination), expected)
                    directory = self.root / destination.partition(":")[2]
                    shutil.rmtree(directory)
                    directory.mkdir()

    def test_round(self):
        """Through all stores and back, unique-ids and bodies stay as they are."""
        ways = ("mbox:mbox", "maildir:maildir", "mh:mh", "mbox:new-mbox")
        for source, destination in pairwise(ways):
            self.assertEqual(self.copy(destination, source=source), 0)
            self.assertEqual(self.snapshot(destination), self.snapshot("mbox:mbox"))
