"""Maildirs that Dovecot uses as well: quotas, and files with one base name."""

import os
import re
import shutil

from popserv.maildrops.maildir.folder_names import directory_of
from popserv.maildrops.maildir.store import MaildirMaildrops
from tests.live.harness import ServerTestCase, require_programs, run, temporary_directory
from tests.maildrops.maildir.harness import result, run_inline

CONFIGURATION = """
base_dir = {directory}/run
log_path = {directory}/log
mail_location = maildir:{maildir}
mail_plugins = quota
plugin {{
  quota = maildir:User quota
  quota_rule = *:storage=10M
}}
mail_uid = {uid}
mail_gid = {gid}
first_valid_uid = 0
first_valid_gid = 0
"""


class Dovecot:
    """doveadm for one Maildir; no process of Dovecot keeps running."""

    def __init__(self, test, maildir):
        require_programs(test, "doveadm")
        self._test = test
        directory = temporary_directory(test)
        self._configuration = directory / "dovecot.conf"
        owner = maildir.stat()
        # Dovecot refuses to work as root.
        if owner.st_uid == 0:
            for path in (directory, maildir, *maildir.iterdir()):
                shutil.chown(path, "nobody", "nogroup")
            owner = maildir.stat()
        self._configuration.write_text(
            CONFIGURATION.format(
                directory=directory, maildir=maildir, uid=owner.st_uid, gid=owner.st_gid
            )
        )
        self._environment = {**os.environ, "USER": "nobody", "HOME": str(maildir)}

    def __call__(self, *arguments, **options):
        """Run doveadm; return its output."""
        done = run(
            *("doveadm", "-c", self._configuration, *arguments), env=self._environment, **options
        )
        self._test.assertEqual(done.returncode, 0, repr(done))
        return done.stdout.decode()

    def quota(self):
        """Return the octets, in units of 1024, and the messages that count."""
        return [
            int(value) for value in re.findall(r"Value=(\d+)", self("-f", "flow", "quota", "get"))
        ]


class DovecotTests(ServerTestCase):
    """Dovecot and popserv agree on a Maildir."""

    def setUp(self):
        """Add a user whose mail is Dovecot's."""
        self.name, self.maildir = self.server.add_user()
        self.dovecot = Dovecot(self, self.maildir)

    def save(self, octets):
        """Save a message of this length by Dovecot, which writes its length into its name."""
        message = b"Subject: x\n\n" + b"x" * (octets - 13) + b"\n"
        self.dovecot("save", input=message)

    def test_quota(self):
        """Dovecot's quota is that of the mail which popserv has left (Maildir++)."""
        for octets in (10 << 10, 20 << 10, 40 << 10):
            self.save(octets)
        self.assertEqual(self.dovecot.quota(), [70, 3])
        connection = self.server.login(self.name)
        connection.ask(b"LIST")
        # The names of files that Dovecot has saved within a second are in any order.
        for number, octets in [line.split() for line in connection.lines()]:
            if not 15_000 < int(octets) < 30_000:
                self.assertTrue(connection.ask(b"DELE " + number).startswith(b"+OK"))
        self.assertTrue(connection.close().startswith(b"+OK"))
        self.assertEqual(self.dovecot.quota(), [20, 1])
        self.assertTrue((self.maildir / "maildirsize").read_text().endswith("\n-51200 -2\n"))
        # Calculated from the files, it is the same.
        (self.maildir / "maildirsize").unlink()
        self.assertEqual(self.dovecot.quota(), [20, 1])

    def test_folder(self):
        """A folder that Dovecot has made is served, and its removals are in the quota."""
        self.dovecot("mailbox", "create", "Entwürfe")
        self.save(10 << 10)
        for octets in (20 << 10, 40 << 10):
            message = b"Subject: x\n\n" + b"x" * (octets - 13) + b"\n"
            self.dovecot("save", "-m", "Entwürfe", input=message)
        path = self.maildir / directory_of("Entwürfe")
        store = MaildirMaildrops(str(self.maildir.parent), folder=path.name, run=run_inline)
        mailbox = result(store.open_maildrop(os.fsencode(self.maildir.name)))
        self.assertEqual(len(mailbox.messages), 2)
        (large,) = [each for each in mailbox.messages if each.octets > 30_000]
        result(mailbox.remove([large]))
        result(mailbox.release())
        self.assertEqual(self.dovecot.quota(), [30, 2])
        status = self.dovecot("-f", "flow", "mailbox", "status", "messages", "Entwürfe")
        self.assertIn("messages=1", status)

    def test_trash(self):
        """Dovecot sees removed messages in the folder, with their flags, and the same quota."""
        for octets in (10 << 10, 20 << 10):
            self.save(octets)
        self.dovecot("flags", "add", "\\Flagged", "mailbox", "INBOX", "larger", "15000")
        store = MaildirMaildrops(f"{self.maildir.parent}/%u", trash=".Trash", run=run_inline)
        mailbox = result(store.open_maildrop(os.fsencode(self.maildir.name)))
        result(mailbox.remove(mailbox.messages))
        result(mailbox.release())
        status = self.dovecot("-f", "flow", "mailbox", "status", "messages", "INBOX", "Trash")
        self.assertIn("INBOX messages=0", status)
        self.assertIn("Trash messages=2", status)
        found = self.dovecot("search", "mailbox", "Trash", "flagged")
        self.assertEqual(len(found.splitlines()), 1)
        self.assertEqual(self.dovecot.quota(), [30, 2])

    def unique_ids(self):
        """Return the unique-ids that popserv shows."""
        connection = self.server.login(self.name)
        connection.ask(b"UIDL")
        uids = [line.partition(b" ")[2] for line in connection.lines()]
        connection.close()
        return uids

    def assert_separate(self, count):
        """Check that each file has a base name of its own, which is its unique-id."""
        names = [path.name.partition(":")[0] for path in self.maildir.glob("[cn]*/*")]
        self.assertEqual((len(names), len(set(names))), (count, count))
        for _ in range(2):
            self.assertEqual(sorted(self.unique_ids()), sorted(map(str.encode, names)))

    def test_renamed_by_popserv(self):
        """Files that popserv has renamed are messages of Dovecot's, too."""
        self.save(1000)
        (file,) = self.maildir.glob("new/*")
        shutil.copy2(file, self.maildir / "cur" / (file.name + ":2,S"))
        self.assertEqual(len(self.unique_ids()), 2)
        self.assert_separate(2)
        self.assertEqual(self.dovecot("fetch", "uid", "all").count("uid:"), 2)

    def test_renamed_by_dovecot(self):
        """Files that Dovecot has renamed are messages of popserv's, too."""
        self.save(1000)
        (file,) = self.maildir.glob("new/*")
        for flags in ("", "S"):
            shutil.copy2(file, self.maildir / "cur" / f"{file.name}:2,{flags}")
        file.unlink()
        self.dovecot("fetch", "uid", "all")
        self.assertEqual(self.dovecot("fetch", "uid", "all").count("uid:"), 2)
        self.assert_separate(2)
