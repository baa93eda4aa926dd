"""A server whose users are in a database, in a directory and in Dovecot."""

import sqlite3

from twisted.trial.unittest import SynchronousTestCase

from tests.auth.ldap.harness import SEARCH, add_user
from tests.live.dovecot_auth import DovecotAuth
from tests.live.harness import Server, require_programs, temporary_directory
from tests.live.slapd import Slapd, program

QUERY = "SELECT name, secret AS password, off AS nologin FROM users WHERE name = lower(:user)"


class SeveralCheckersTests(SynchronousTestCase):
    """``--auth`` with three real servers, in order."""

    def setUp(self):
        """Start the directory and Dovecot, and create the database."""
        if not program():
            require_programs(self, "slapd")
        self.files = temporary_directory(self)
        database = self.files / "users.db"
        connection = sqlite3.connect(database)
        with connection:
            connection.execute("CREATE TABLE users (name, secret, off)")
            connection.executemany(
                "INSERT INTO users VALUES (?, ?, ?)",
                [("sue", "{PLAIN}secret", 0), ("gina", "{PLAIN}secret", 1)],
            )
        connection.close()
        self.sql = self.write(
            "sql", f"url = 'sqlite:///{database}'\nquery = '{QUERY}'\nschemes = ['PLAIN']\n"
        )
        self.slapd = Slapd(self)
        self.slapd.add("", objectClass=["dcObject", "organization"], o=["x"])
        self.slapd.add("ou=people", objectClass=["organizationalUnit"])
        for name, password in (("lisa", "secret"), ("sue", "other"), ("ann", "other")):
            add_user(self.slapd, name, password)
        ca_file = self.slapd.ca_file
        self.ldap = self.write(
            "ldap", f"urls = ['{self.slapd.url}']\nca-file = '{ca_file}'\n{SEARCH}"
        )
        self.dovecot = DovecotAuth(self)
        self.dovecot.start()

    def write(self, kind, text):
        """Write a configuration file; return the argument of ``--auth``."""
        path = self.files / f"{kind}.toml"
        path.write_text(text)
        path.chmod(0o600)
        return f"--auth={kind}:{path}"

    def reply(self, name, password="secret"):
        """Return the reply to a login."""
        connection = self.server.connect()
        connection.ask(b"USER " + name.encode())
        reply = connection.ask(b"PASS " + password.encode())
        if reply.startswith(b"+OK"):
            connection.close()
        connection.abandon()
        return reply

    def test_order(self):
        """The first that knows the name decides; one that is away holds up those after it only."""
        self.server = Server(
            self.sql, self.ldap, f"--auth=dovecot:{self.dovecot.path}", "--auth-cache=0"
        )
        self.addCleanup(self.server.stop)
        for name, password, start in (
            *(("sue", "secret", b"+OK sue"), ("sue", "other", b"-ERR [AUTH]")),
            *(("lisa", "secret", b"+OK lisa"), ("LISA", "secret", b"+OK lisa")),
            *(("ann", "other", b"+OK ann"), ("ann", "secret", b"-ERR [AUTH]")),
            *(("hal", "secret", b"+OK hal"), ("hal", "x", b"-ERR [AUTH]")),
            *(("gina", "secret", b"-ERR [AUTH]"), ("nobody", "x", b"-ERR [AUTH]")),
        ):
            reply = self.reply(name, password)
            self.assertTrue(reply.startswith(start), (name, password, reply))
        self.slapd.stop()
        for name, start in (
            *(("sue", b"+OK"), ("lisa", b"-ERR [SYS/TEMP]"), ("hal", b"-ERR [SYS/TEMP]")),
            ("gina", b"-ERR [AUTH]"),
        ):
            self.assertTrue(self.reply(name).startswith(start), name)
        self.slapd.start()
        self.assertTrue(self.reply("hal").startswith(b"+OK"))
        lines = [line.partition("ldap.toml: ")[2] for line in self.server.log.splitlines()]
        outage = [line.partition(",")[0] for line in lines if "directory" in line]
        self.assertEqual(outage, ["the directory cannot be asked", "the directory answers again"])
