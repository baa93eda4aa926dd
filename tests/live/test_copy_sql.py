"""``popserv copy`` from a real Dovecot to the SQL store and back, and ``popserv compare``."""

import os
import signal
import subprocess
from itertools import cycle

import psycopg
from twisted.trial.unittest import SynchronousTestCase

from tests.live.dovecot_pop3 import DovecotPOP3
from tests.live.harness import (
    BIN,
    SAMPLES,
    Server,
    require_programs,
    run,
    temporary_directory,
    until,
)
from tests.live.sql_store import sql_file

FLAGS = ("", *"DFPRST", "DFPRST")
"""Those of a Maildir, in info suffixes: none, each, and all of them."""

LARGE = b"Subject: large\n\n" + b"a line of a large message\n" * 100_000


def flags_of(maildir):
    """Return the octets and the flags of each message in a Maildir, sorted."""
    paths = maildir.glob("[cn]*/*")
    return sorted((path.read_bytes(), path.name.partition(":2,")[2]) for path in paths)


class FromDovecotTests(SynchronousTestCase):
    """A Dovecot with its defaults is replaced by popserv on several machines."""

    def setUp(self):
        """Let Dovecot serve Ann, with small and large messages."""
        self.file = sql_file(self, "lease = 3")
        self.objects = self.file.parent / "objects"
        self.dovecot = DovecotPOP3(self)
        self.dovecot.mail.chmod(0o755)
        self.messages = [LARGE, *SAMPLES, b"Subject: last\n\n" + b"\n" * 8179]
        old = self.dovecot.deliver("ann", self.messages)
        self.unique_ids = self.dovecot.unique_ids("ann")
        self.assertEqual(len(self.unique_ids), len(self.messages))
        paths = sorted((old / "cur").iterdir())
        self.times = [1_600_000_000 + 60 * at for at in range(len(paths))]
        for path, time in zip(paths, self.times, strict=True):
            os.utime(path, (time, time))
        self.source = f"maildir:{self.dovecot.mail}"

    def copy(self):
        """Copy; return the line about Ann."""
        done = run("popserv", "copy", self.source, f"sql:{self.file}", "--uidl", "dovecot")
        self.assertEqual(done.returncode, 0, repr(done))
        return done.stdout.decode().splitlines()[0]

    def objects_of(self, least):
        """Return the messages of at least so many octets that are objects."""
        paths = self.objects.glob("*/*")
        return sorted(size for path in paths if (size := path.stat().st_size) >= least)

    def delivered(self):
        """Return when the messages were delivered, in order."""
        conninfo = self.file.read_text().split('"')[1]
        with psycopg.connect(conninfo) as connection:
            rows = connection.execute(
                "SELECT extract(epoch FROM delivered)::float8 FROM message ORDER BY position"
            ).fetchall()
        return [seconds for (seconds,) in rows]

    def test_copied(self):
        """Clients fetch nothing again, dates stay, and a second copy copies nothing."""
        count = len(self.messages)
        self.assertEqual(self.copy(), f"ann: {count} messages copied, 0 are there already")
        sizes = sorted(len(each) for each in self.messages if len(each) > 8192)
        self.assertGreater(len(sizes), 1)
        self.assertEqual(self.objects_of(0), sizes)
        self.assertEqual(self.delivered(), self.times)
        self.assertEqual(self.copy(), f"ann: 0 messages copied, {count} are there already")
        self.dovecot.start()
        server = Server("--auth=memory:ann:secret", store=("--store", f"sql:{self.file}"))
        self.addCleanup(server.stop)
        session = server.login("ann")
        self.addCleanup(session.abandon)
        session.ask(b"UIDL")
        self.assertEqual([line.split()[1] for line in session.lines()], self.unique_ids)
        session.close()
        users = temporary_directory(self) / "users"
        users.write_text("ann:secret\n")
        users.chmod(0o600)
        urls = [f"pop3://127.0.0.1:{port}" for port in (self.dovecot.port, server.port)]
        done = run("popserv", "compare", *urls, "--users", users)
        lines = done.stdout.decode().splitlines()
        self.assertEqual(lines[0], f"ann: clients would fetch none of {count} messages again")
        self.assertIn(f"{count} on both servers, 0 of them fetched again, 0 different", lines[-1])

    def test_back(self):
        """From the database to a Maildir, unique-ids, order, octets and dates stay."""
        self.copy()
        mail = temporary_directory(self)
        for count in (f"{len(self.messages)} messages copied", "0 messages copied"):
            done = run("popserv", "copy", f"sql:{self.file}", f"maildir:{mail}")
            self.assertEqual(done.returncode, 0, repr(done))
            self.assertIn(f"ann: {count}", done.stdout.decode())
        done = run(
            *("popserv", "session", "--user", "ann", "--store", f"maildir:{mail}"),
            input=b"UIDL\r\nQUIT\r\n",
        )
        shown = [line.split()[1] for line in done.stdout.splitlines() if line[:1].isdigit()]
        self.assertEqual(shown, self.unique_ids)
        paths = sorted((mail / "ann").glob("[cn]*/*"), key=lambda path: path.name)
        self.assertEqual([path.read_bytes() for path in paths], self.messages)
        self.assertEqual([path.stat().st_mtime for path in paths], self.times)

    def test_flags(self):
        """Through the database and back, Dovecot's Maildir has the same flags, also for IMAP."""
        require_programs(self, "/usr/lib/dovecot/imap")
        old = self.dovecot.mail / "ann"
        for path, flags in zip(sorted((old / "cur").iterdir()), cycle(FLAGS), strict=False):
            path.rename(path.with_name(path.name.partition(":")[0] + f":2,{flags}"))
        back = temporary_directory(self)
        back.chmod(0o755)
        self.copy()
        done = run("popserv", "copy", f"sql:{self.file}", f"maildir:{back}")
        self.assertIn(b"users: 1 copied, 0 failed", done.stdout)
        found = flags_of(back / "ann")
        self.assertLessEqual({*FLAGS}, {flags for _, flags in found})
        self.assertEqual(found, flags_of(old))
        moved = DovecotPOP3(self, back)
        moved.give(back / "ann")
        shown = self.dovecot.flags("ann")
        self.assertEqual(len(shown), len(self.messages))
        self.assertEqual(moved.flags("ann"), shown)

    def test_killed(self):
        """After kill -9 between objects and their messages, the same command completes it."""
        large = [LARGE + b"%d\n" % number for number in range(30)]
        self.dovecot.deliver("bob", large)
        self.dovecot.unique_ids("bob")
        command = [BIN / "popserv", "copy", self.source, f"sql:{self.file}", "--uidl", "dovecot"]
        with subprocess.Popen([*command, "--user=bob"], stdout=subprocess.DEVNULL) as copying:
            until(lambda: self.objects_of(len(LARGE)) or copying.poll() is not None, "an object")
            copying.send_signal(signal.SIGKILL)
        self.assertEqual(copying.returncode, -signal.SIGKILL)

        def completed():
            done = run(*command, "--user=bob")
            # The lease of the copy that was killed has to expire.
            return done.returncode == 0 and done

        until(completed, "the copy")
        again = run(*command, "--user=bob")
        self.assertTrue(again.stdout.startswith(b"bob: 0 messages copied, 30 are there"), again)
        done = run(
            *("popserv", "session", "--user", "bob", "--store", f"sql:{self.file}"),
            input=b"UIDL\r\nQUIT\r\n",
        )
        shown = [line.split()[1] for line in done.stdout.splitlines() if line[:1].isdigit()]
        self.assertEqual(shown, self.dovecot.unique_ids("bob"))
