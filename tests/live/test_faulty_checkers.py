"""Databases, directories and Dovecot fall silent, break off or answer nonsense, and come back."""

import os

from tests.auth.ldap.harness import SEARCH, add_user
from tests.live.dovecot_auth import DovecotAuth
from tests.live.faulty_proxy import CUT, FAULTS, FLOOD, GARBAGE, FaultyProxy
from tests.live.harness import (
    Server,
    ServerTestCase,
    deliver,
    require_programs,
    temporary_directory,
    until,
)
from tests.live.mariadb import SERVER, MariaDB
from tests.live.postgresql import PostgreSQL, program
from tests.live.slapd import Slapd
from tests.live.slapd import program as slapd

TABLE = "CREATE TABLE users (name varchar(80), secret varchar(80))"
ROWS = "INSERT INTO users VALUES ('ann', '{PLAIN}secret'), ('bob', '{PLAIN}secret')"
QUERY = "SELECT name, secret AS password FROM users WHERE name = :user"

REFUSED = b"-ERR [SYS/TEMP] temporary failure, try again later"

MEMORY = 32 << 20
"""The octets by which the server may grow, however much it is sent."""


class FaultyServerTests(ServerTestCase):
    """A server of users behind a proxy that spoils its answers.

    A look-up has few seconds, and there is one connection, which nothing may keep for long.
    """

    def serve(self, kind, text, seconds=1):
        """Start a server with a file for ``--auth``."""
        file = temporary_directory(self) / f"{kind}.toml"
        file.write_text(f"timeout = {seconds}\nconnections = 1\n{text}")
        file.chmod(0o600)
        # Nothing is remembered, so that each login asks; databases are asked each time anyway.
        self.run_server(f"{kind}:{file}", *(("--auth-cache", "0") if kind == "ldap" else ()))

    def run_server(self, auth, *options, other="bob"):
        """Start a server with this value of ``--auth``; another session is open throughout."""
        self.running = Server("--auth", auth, *options)
        self.addCleanup(self.running.stop)
        # The server of this test, for tearDown.
        ServerTestCase._current = type(self), self.running
        for name in ("ann", other):
            deliver(self.running.root / name, [b"hello\n"])
        self.other = self.running.login(other)
        self.addCleanup(self.other.abandon)

    def begin(self, name=b"ann"):
        """Send a name and a password; return the connection, whose next line is the reply."""
        connection = self.running.connect()
        self.addCleanup(connection.abandon)
        connection.ask(b"USER " + name)
        connection.socket.sendall(b"PASS secret\r\n")
        return connection

    def succeeds(self):
        """Return whether a login succeeds."""
        login = self.begin()
        reply = login.line()
        if reply != REFUSED:
            self.assertEqual(reply, b"+OK ann's maildrop has 1 message (7 octets)")
            login.close()
        return reply != REFUSED

    def suffer(self, proxy, fault, spared=0):
        """Let the answers be spoiled; check what clients and the log are told, and go on."""
        log = len(self.running.log)
        case = self.refuse(proxy, fault, spared)
        lines = [line.partition(".toml: the ")[2] for line in self.running.log[log:].splitlines()]
        outage = [line.partition(",")[0].partition(" ")[2] for line in lines if line]
        self.assertEqual(outage, ["cannot be asked", "answers again"], case)

    def refuse(self, proxy, fault, spared):
        """Let the answers be spoiled until all logins are refused; return what was the case."""
        case = proxy.fault, proxy.spared = fault, spared
        logins = [self.begin() for _ in range(3)]
        # Who is logged in notices nothing.
        self.assertEqual(self.other.ask(b"NOOP")[:3], b"+OK")
        for login in logins:
            self.assertEqual(login.line(), REFUSED, case)
        # The password is in what was sent to the server, and may be in exceptions.
        self.assertNotIn("secret", self.running.log, case)
        proxy.fault = None
        # A look-up that began before may take its time.
        until(self.succeeds, f"a login after {case}")
        return case


class PostgreSQLTests(FaultyServerTests):
    """``--auth sql:FILE`` with PostgreSQL."""

    def test_faults(self):
        """Logins fail as temporary, are logged once, and work again when the faults are over."""
        if not program("initdb"):
            require_programs(self, "initdb")
        database = PostgreSQL(self)
        database.execute(f"{TABLE};{ROWS}")
        proxy = FaultyProxy(self, str(database.directory / ".s.PGSQL.5432"))
        self.serve(
            "sql",
            f"url = 'postgresql+psycopg://mail@127.0.0.1:{proxy.port}/postgres'\n"
            f"query = '{QUERY}'\nschemes = ['PLAIN']\n",
        )
        memory = self.running.memory
        for fault in FAULTS:
            self.suffer(proxy, fault)
        # The first piece is the answer to libpq's question for TLS, the second the handshake.
        self.suffer(proxy, FLOOD, 2)
        self.assertLess(self.running.memory, memory + MEMORY)


class MariaDBTests(FaultyServerTests):
    """``--auth sql:FILE`` with MariaDB."""

    def test_faults(self):
        """Logins fail as temporary, are logged once, and work again when the faults are over."""
        require_programs(self, SERVER, "mariadb-install-db", "mariadb")
        database = MariaDB(self)
        database.execute(f"{TABLE};{ROWS}")
        proxy = FaultyProxy(self, str(database.directory / "socket"))
        self.serve(
            "sql",
            f"url = 'mysql+pymysql://root@127.0.0.1:{proxy.port}/mail'\n"
            f"query = '{QUERY}'\nschemes = ['PLAIN']\n",
        )
        memory = self.running.memory
        for fault in FAULTS:
            self.suffer(proxy, fault)
        self.assertLess(self.running.memory, memory + MEMORY)


class LDAPTests(FaultyServerTests):
    """``--auth ldap:FILE`` with slapd."""

    def test_faults(self):
        """Logins fail as temporary, are logged once, and work again when the faults are over."""
        if not slapd():
            require_programs(self, "slapd")
        directory = Slapd(self)
        directory.add("", objectClass=["dcObject", "organization"], o=["x"])
        directory.add("ou=people", objectClass=["organizationalUnit"])
        for name in ("ann", "bob"):
            add_user(directory, name, "secret")
        port = int(directory.url.rpartition(":")[2])
        proxy = FaultyProxy(self, ("127.0.0.1", port))
        self.serve(
            "ldap",
            f"urls = ['ldap://127.0.0.1:{proxy.port}']\nca-file = '{directory.ca_file}'\n{SEARCH}",
            # On a busy machine, a handshake takes a part of a second.
            seconds=2,
        )
        memory = self.running.memory
        for fault in FAULTS:
            # The first piece is the answer to StartTLS, those after it are the handshake.
            for spared in (0, 1, 3):
                self.suffer(proxy, fault, spared)
        self.assertLess(self.running.memory, memory + MEMORY)


class DovecotTests(FaultyServerTests):
    """``--auth dovecot:PATH``; the time-outs, which are longer, are tested on a clock."""

    def test_faults(self):
        """Logins fail as temporary, are logged once, and work again when the faults are over."""
        dovecot = DovecotAuth(self)
        dovecot.start()
        path = str(temporary_directory(self) / "auth-client")
        proxy = FaultyProxy(self, str(dovecot.path), path)
        os.chmod(path, 0o666)
        self.run_server(f"dovecot:{path}", "--auth-cache", "0", other="gina")
        memory = self.running.memory
        for fault in (CUT, GARBAGE, FLOOD):
            # With and without the handshake.
            for spared in (1, 0):
                log = len(self.running.log)
                case = self.refuse(proxy, fault, spared)
                lines = self.running.log[log:].splitlines()
                self.assertLess(sum("Dovecot" in line for line in lines), 6, (case, lines))
        self.assertLess(self.running.memory, memory + MEMORY)
