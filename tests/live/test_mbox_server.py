"""``twistd pop3 --mbox`` as on Debian: several workers, without privileges, in /var/mail."""

import grp
import os
import pwd
import shutil
import subprocess
import sys
from unittest import SkipTest

from popserv.auth.passwords.users_file_editing import set_secret
from tests.live.harness import Server, temporary_directory
from tests.live.test_workers import WorkersCase

USER = "daemon"
"""The user that the server runs as."""

MESSAGE = b"From ann@example.org Mon Jan  5 10:00:0%d 2026\nSubject: %d\n\ntext\n\n"


class MboxServerTests(WorkersCase):
    """A server that has given up its privileges."""

    def setUp(self):
        """Make a directory like /var/mail, with the file of a user of the system."""
        super().setUp()
        if os.geteuid():
            raise SkipTest("only root can use --uid")
        self.spool = temporary_directory(self) / "mail"
        self.spool.mkdir()
        shutil.chown(self.spool, "root", "mail")
        self.spool.chmod(0o2775)
        self.file = self.spool / "ann"
        self.write("nobody", "mail", 0o660)

    def write(self, owner, group, mode):
        """Write a file of three messages."""
        self.file.write_bytes(b"".join(MESSAGE % (at, at) for at in range(3)))
        shutil.chown(self.file, owner, group)
        self.file.chmod(mode)

    def serve(self, group):
        """Start a server in this group; with two workers, if the user can run this Python."""
        users = temporary_directory(self) / "users"
        set_secret(str(users), b"ann", b"{PLAIN}secret", new=True)
        shutil.chown(users.parent, USER)
        shutil.chown(users, USER)
        options = {
            "root": self.spool,
            "store": ("--mbox", f"{self.spool}/%u"),
            "twistd": ("--uid", USER, "--gid", group),
        }
        auth = "--auth", f"passwd-file:{users}"
        command = [sys.executable, "-c", "import popserv"]
        try:
            subprocess.run(command, user=USER, extra_groups=[], cwd="/", check=True)
        except (PermissionError, subprocess.CalledProcessError):
            server = Server(*auth, **options)
            self.addCleanup(server.stop)
            return server
        return self.start(*auth, **options)

    def test_group_mail(self):
        """In the group mail it takes all locks, and keeps owner, group and mode of the file."""
        server = self.serve("mail")
        session = server.login("ann")
        for _ in range(6):
            other = server.connect()
            other.ask(b"USER ann")
            self.assertStartsWith(other.ask(b"PASS secret"), b"-ERR [IN-USE]")
            other.close()
        self.assertStartsWith(session.ask(b"DELE 2"), b"+OK")
        self.assertStartsWith(session.close(), b"+OK")
        for _ in range(4):
            session = server.login("ann")
            self.assertStartsWith(session.ask(b"STAT"), b"+OK 2 ")
            session.close()
        self.assertEqual(os.listdir(self.spool), ["ann"])
        self.assertEqual(self.file.read_bytes(), MESSAGE % (0, 0) + MESSAGE % (2, 2))
        status = self.file.stat()
        expected = pwd.getpwnam("nobody").pw_uid, grp.getgrnam("mail").gr_gid, 0o100660
        self.assertEqual((status.st_uid, status.st_gid, status.st_mode), expected)
        self.assertNotIn("cannot create dotlocks", server.log)

    def test_other_group(self):
        """In another group the log names the directory and the remedy, or the file."""
        self.write(USER, "mail", 0o600)
        server = self.serve(grp.getgrgid(pwd.getpwnam(USER).pw_gid).gr_name)
        session = server.login("ann")
        session.ask(b"DELE 1")
        self.assertStartsWith(session.close(), b"+OK")
        self.assertIn(
            f"cannot create dotlocks in {self.spool}: Permission denied for user {USER}; only "
            "programs that use fcntl locks are excluded; give the server permission",
            server.log,
        )
        self.write("nobody", "mail", 0o660)
        session = server.connect()
        session.ask(b"USER ann")
        self.assertStartsWith(session.ask(b"PASS secret"), b"-ERR [SYS/PERM]")
        session.close()
        self.assertIn(
            f"{self.file} cannot be read by user {USER}; it belongs to nobody and has mode 0660",
            server.log,
        )
