"""Servers of the old dialects, with clients that still speak them."""

import os
import poplib
import signal

from twisted.trial.unittest import TestCase

from popserv.dialects import DIALECTS
from tests.live.harness import (
    SAMPLES,
    Server,
    ServerTestCase,
    run,
    shown,
    stored,
    temporary_directory,
    wire_form,
)

MESSAGES = SAMPLES[:3]


class LastTests(ServerTestCase):
    """LAST of RFC 1460, by which fetchmail knows what is new if it keeps no unique-ids."""

    options = ("--dialect", "rfc1460")

    def fetch(self, home, name):
        """Have fetchmail keep what it gets; return its exit code, and what is new."""
        before = set(home.glob("got/*"))
        fetchmail = run(
            "fetchmail", "--fetchmailrc", home / "rc", "--nodetach",
            env={**os.environ, "HOME": str(home)},
        )  # fmt: skip
        self.assertIn(fetchmail.returncode, (0, 1), fetchmail.stderr)
        new = sorted(set(home.glob("got/*")) - before, key=lambda file: int(file.name))
        return [file.read_bytes() for file in new]

    def test_fetchmail(self):
        """Fetchmail keeps all mail, and gets each message once, whatever is removed meanwhile."""
        name, maildir = self.server.add_user(MESSAGES)
        home = temporary_directory(self)
        (home / "got").mkdir()
        (home / "rc").write_text(
            f"set invisible\npoll 127.0.0.1 service {self.server.port} proto pop3 auth password "
            f"no uidl bad-header accept user {name} password secret is root here keep "
            f'sslproto "" no rewrite mda {home}/agent\n'
        )
        (home / "rc").chmod(0o600)
        (home / "agent").write_text(f"#!/bin/sh\ncd {home}/got && exec cat > $(ls | wc -l)\n")
        (home / "agent").chmod(0o700)
        self.assertEqual(self.fetch(home, name), [wire_form(each, b"\n") for each in MESSAGES])
        self.assertEqual(self.fetch(home, name), [])
        self.assertEqual(len(list(maildir.glob("cur/*:2,S"))), 3)
        next(iter(sorted(maildir.glob("cur/*")))).unlink()
        (maildir / "new" / "1800000000.x").write_bytes(SAMPLES[4])
        self.assertEqual(self.fetch(home, name), [wire_form(SAMPLES[4], b"\n")])
        self.assertEqual(self.fetch(home, name), [])

    def test_killed(self):
        """A server that is killed has noted nothing of sessions under way, and lost nothing."""
        server = self.server
        name, maildir = server.add_user(MESSAGES)
        client = server.login(name)
        client.ask(b"RETR 1")
        client.lines()
        server.stop(signal.SIGKILL)
        client.abandon()
        self.assertEqual(stored(maildir), MESSAGES)
        self.assertEqual(list(maildir.glob("cur/*")), [])

    def test_moved_by_others(self):
        """Flags that another program sets meanwhile stay, and the message has S beside them."""
        client, maildir = self.login(MESSAGES)
        client.ask(b"RETR 2")
        client.lines()
        (file,) = maildir.glob("new/1700000001.*")
        file.rename(maildir / "cur" / f"{file.name}:2,FR")
        self.assertEqual(client.ask(b"LAST"), b"+OK 2")
        client.close()
        self.assertEqual([each.name[-6:] for each in maildir.glob("cur/*")], [":2,FRS"])
        self.assertEqual(stored(maildir), MESSAGES)


class EveryDialectTests(TestCase):
    """What all dialects have, and that none has what is another's."""

    def test_poplib(self):
        """A whole session in each dialect gives the messages to the byte, and removes them."""
        for name, dialect in DIALECTS.items():
            server = Server("--dialect", name)
            try:
                user, maildir = server.add_user(MESSAGES)
                client = poplib.POP3("127.0.0.1", server.port)
                client.user(user)
                client.pass_("secret")
                texts = MESSAGES if not dialect.has(b"UTF8") else [*map(shown, MESSAGES)]
                for number, text in enumerate(texts, 1):
                    got = client.retr(number)[1]
                    self.assertEqual(b"".join(line + b"\r\n" for line in got), wire_form(text))
                    self.assertEqual(client.top(number, 0)[1], got[: got.index(b"") + 1])
                self.assertEqual(client.stat()[0], 3)
                client.dele(2)
                client.quit()
                self.assertEqual(stored(maildir), [MESSAGES[0], MESSAGES[2]])
                flagged = len(list(maildir.glob("cur/*:2,S")))
                self.assertEqual(flagged, 2 if dialect.has(b"LAST") else 0)
            finally:
                server.stop()

    def test_commands(self):
        """Any command of any dialect, in every state, is answered by one line, or is its own."""
        keywords = {each.keyword for dialect in DIALECTS.values() for each in dialect.commands}
        for name, dialect in DIALECTS.items():
            server = Server("--dialect", name)
            try:
                user, _ = server.add_user(MESSAGES)
                client = server.connect()
                for keyword in keywords - {each.keyword for each in dialect.commands}:
                    self.assertEqual(client.ask(keyword + b" 1"), b"-ERR unknown command")
                client.ask(b"USER " + user.encode())
                self.assertTrue(client.ask(b"PASS secret").startswith(b"+OK"))
                for keyword in keywords - {each.keyword for each in dialect.commands}:
                    self.assertEqual(client.ask(keyword), b"-ERR unknown command")
                self.assertTrue(client.close().startswith(b"+OK"))
            finally:
                server.stop()


class MarkSeenTests(ServerTestCase):
    """--mark-seen, for programs that look at the same Maildir otherwise."""

    options = ("--mark-seen",)

    def test_seen(self):
        """What was retrieved has the flag S after the session, and TOP is no retrieving."""
        client, maildir = self.login(MESSAGES)
        for line in (b"RETR 1", b"TOP 2 0"):
            client.ask(line)
            client.lines()
        self.assertEqual(client.ask(b"LAST"), b"-ERR unknown command")
        client.close()
        self.assertEqual([each.name[:10] for each in maildir.glob("cur/*:2,S")], ["1700000000"])
        self.assertEqual(stored(maildir), MESSAGES)
