"""POP3 by popserv beside IMAP by a real Dovecot: --deleted keep and --deleted move."""

import os
import shutil
import time

from tests.live.dovecot_pop3 import DovecotPOP3
from tests.live.harness import SAMPLES, Server, ServerTestCase, deliver, require_programs


class BesideIMAPCase(ServerTestCase):
    """A user with three messages, whom Dovecot serves as well."""

    def setUp(self):
        """Add the user; the second message is flagged."""
        require_programs(self, "/usr/lib/dovecot/imap")
        self.name, self.maildir = self.server.add_user(SAMPLES[:3])
        self.dovecot = DovecotPOP3(self, self.server.root)
        self.dovecot.give(self.maildir)
        self.imap(b"STORE 2 FLAGS (\\Flagged $Label1)")

    def imap(self, *commands, mailbox=b"INBOX"):
        """Give commands of IMAP in a mailbox; return the lines of the session."""
        return self.dovecot.imap(self.name, b"SELECT " + mailbox, *commands)

    def flags(self, mailbox=b"INBOX"):
        """Return the keywords and flags of the messages that IMAP clients see, sorted."""
        return self.dovecot.flags(self.name, mailbox)

    def shown(self, delete=()):
        """Return the unique-ids in a session of popserv, which deletes messages by number."""
        connection = self.server.login(self.name)
        connection.ask(b"UIDL")
        uids = [line.partition(b" ")[2] for line in connection.lines()]
        for number in delete:
            self.assertTrue(connection.ask(b"DELE %d" % number).startswith(b"+OK"))
        self.assertTrue(connection.close().startswith(b"+OK"))
        return uids

    def capabilities(self):
        """Return the capabilities before and after a login, which are the same here."""
        connection = self.server.login(self.name)
        connection.ask(b"CAPA")
        lines = connection.lines()
        connection.close()
        return lines


class KeepTests(BesideIMAPCase):
    """--deleted keep."""

    options = ("--deleted=keep", "--uidl=dovecot")

    def test_deleted(self):
        """What a client has deleted is not shown to POP3 again, and IMAP sees no difference."""
        uids = self.shown()
        before = self.flags()
        self.assertEqual(before, [[], [b"$Label1", b"\\Flagged"], []])
        self.assertEqual(self.shown(delete=[2]), uids)
        self.assertEqual(self.flags(), before)
        self.assertEqual(self.shown(), [uids[0], uids[2]])
        # Flags, and a move to another name, change nothing.
        self.imap(b"STORE 1:* +FLAGS (\\Seen \\Answered)")
        self.assertEqual(self.shown(), [uids[0], uids[2]])
        deliver(self.maildir, [SAMPLES[3]])
        self.dovecot.give(self.maildir)
        shown = self.shown(delete=[1])
        self.assertEqual(shown[:2], [uids[0], uids[2]])
        self.assertEqual(self.shown(), shown[1:])
        self.assertEqual(len(self.flags()), 4)
        # Dovecot still knows all of them by the same unique-ids.
        self.assertEqual(self.dovecot.unique_ids(self.name), [*uids, shown[2]])
        # What IMAP expunges is gone for both.
        self.imap(b"STORE 2,3 +FLAGS (\\Deleted)", b"EXPUNGE")
        self.assertEqual(self.shown(), shown[2:])

    def test_restart(self):
        """A server that is started later hides the same messages; one without the option none."""
        uids = self.shown(delete=[1, 3])
        for options, expected in ((self.options, uids[1:2]), (self.options[1:], uids)):
            server = Server(*options, root=self.server.root)
            self.addCleanup(server.stop)
            connection = server.login(self.name)
            connection.ask(b"UIDL")
            self.assertEqual([line.split()[1] for line in connection.lines()], expected)
            connection.close()

    def test_expire(self):
        """Mail that a client leaves stays visible, and CAPA says so (RFC 2449 section 6.6)."""
        self.assertIn(b"EXPIRE NEVER", self.capabilities())
        old = self.maildir / "new" / "1000000000.M1P1.host"
        old.write_bytes(SAMPLES[3])
        shutil.chown(old, *self.dovecot.owner)
        uids = self.shown(delete=[2])
        self.assertEqual(len(uids), 4)
        for _ in range(2):
            self.assertEqual(self.shown(), [uids[0], *uids[2:]])


class KeepForDaysTests(BesideIMAPCase):
    """--deleted keep with --since."""

    options = ("--deleted=keep", "--since=30d")

    def test_expire(self):
        """CAPA has the days after which mail is not shown; IMAP sees it for longer."""
        self.assertIn(b"EXPIRE 30", self.capabilities())
        self.assertEqual(self.shown(), [])
        name = f"{int(time.time())}.M1P1.host"
        path = self.maildir / "new" / name
        path.write_bytes(SAMPLES[3])
        os.chown(path, *self.dovecot.owner)
        self.assertEqual(self.shown(delete=[1]), [name.encode()])
        self.assertEqual(self.shown(), [])
        self.assertEqual(len(self.flags()), 4)


class MoveTests(BesideIMAPCase):
    """--deleted move:Trash."""

    options = ("--deleted=move:Trash",)

    def test_deleted(self):
        """IMAP finds in the folder what a client has deleted, with its flags, and moves it back."""
        uids = self.shown(delete=[2, 3])
        self.assertEqual(self.shown(), uids[:1])
        self.assertEqual(self.flags(), [[]])
        self.assertIn(b'LIST (\\HasNoChildren) "." Trash', b"\n".join(self.imap(b'LIST "" *')))
        trashed = self.flags(b"Trash")
        self.assertEqual(sorted(map(len, trashed)), [0, 1])
        self.assertIn([b"\\Flagged"], trashed)
        self.imap(b"MOVE 1:* INBOX", mailbox=b"Trash")
        self.assertEqual(len(self.shown()), 3)
        self.assertIn(b"EXPIRE NEVER", self.capabilities())
