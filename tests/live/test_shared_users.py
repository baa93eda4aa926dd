"""Servers that share a database: users, failed logins and the delay between logins."""

import json

from twisted.trial.unittest import TestCase

from tests.live.harness import (
    Connection,
    Server,
    require_programs,
    run,
    temporary_directory,
    until,
)
from tests.live.postgresql import PostgreSQL, program


class SharedUsersTests(TestCase):
    """Two hosts, whose users are in the database of their store."""

    def setUp(self):
        """Start a database and two servers."""
        if not program("initdb"):
            require_programs(self, "initdb")
        self.database = PostgreSQL(self)
        file = temporary_directory(self) / "store.toml"
        file.touch(0o600)
        conninfo = f"host={self.database.directory} user=mail dbname=postgres"
        file.write_text(f'conninfo = "{conninfo}"\npatience = 2\n')
        self.store = f"sql:{file}"
        self.popserv("schema", "create")
        self.popserv("user", "add", "ann", input=b"secret")
        self.one, self.two = (self.start(name) for name in ("mx1", "mx2"))

    def tearDown(self):
        """Check that nothing was loaded later, as it could not be with --chroot."""
        self.assertEqual(self.one.loads, "")

    def popserv(self, *arguments, **options):
        """Run the command; return what it prints."""
        done = run("popserv", *arguments, "--store", self.store, **options)
        self.assertEqual(done.returncode, 0, repr(done))
        return done.stdout

    def start(self, name):
        """Start a host, which believes the addresses of clients that are told."""
        listen = ("--listen", "haproxy:tcp:0:interface=127.0.0.1", "--allow-plaintext")
        server = Server(
            *listen, "--hostname", name, "--login-delay", "600", store=("--store", self.store)
        )
        self.addCleanup(server.stop)
        return server

    def log_in(self, host, password, header=b"PROXY UNKNOWN\r\n"):
        """Return the reply to a login of Ann."""
        connection = Connection(("127.0.0.1", host.port), header=header)
        self.addCleanup(connection.abandon)
        connection.ask(b"USER ann")
        return connection.ask(b"PASS " + password)

    def fail_to_log_in(self, host, password, address="192.0.2.7"):
        """Log in with a wrong password from a network, and do not wait for the reply."""
        header = f"PROXY TCP4 {address} 192.0.2.1 4321 110\r\n".encode()
        connection = Connection(("127.0.0.1", host.port), header=header)
        connection.ask(b"USER ann")
        before = host.log.count(address)
        connection.socket.sendall(b"PASS " + password + b"\r\n")
        until(lambda: host.log.count(address) > before, "the failure")
        connection.abandon()

    def networks(self, name):
        """Return how many networks have failed to log in, as a host knows it."""
        hosts = map(json.loads, self.popserv("status", "--json").splitlines())
        return sum(each["networks_with_failures"] for each in hosts if each["host"] == name)

    def test_users(self):
        """A user logs in on any host, a change counts at once, and so does the last login."""
        self.assertEqual(self.log_in(self.one, b"secret")[:3], b"+OK")
        too_soon = b"-ERR [LOGIN-DELAY]"
        self.assertTrue(self.log_in(self.two, b"secret").startswith(too_soon))
        self.popserv("user", "passwd", "ann", input=b"changed")
        self.assertTrue(self.log_in(self.two, b"changed").startswith(too_soon))
        self.assertTrue(self.log_in(self.one, b"changed").startswith(too_soon))
        self.popserv("user", "disable", "ann")
        self.assertFalse(self.log_in(self.two, b"changed").startswith(too_soon))

    def test_outage(self):
        """While the database is away nobody logs in, and afterwards everybody does."""
        self.database.stop()
        reply = self.log_in(self.one, b"secret")
        self.assertTrue(reply.startswith(b"-ERR [SYS/TEMP]"), repr(reply))
        self.assertEqual(self.one.log.count("the database is unavailable"), 1)
        self.database.start()
        until(lambda: self.log_in(self.one, b"secret").startswith(b"+OK"), "a login")

    def test_penalties(self):
        """Failed logins on one host delay those on the other."""
        for password in (b"1", b"2"):
            self.fail_to_log_in(self.one, password)
        # What is told later is known later.
        self.fail_to_log_in(self.one, b"3", "192.0.2.8")
        until(lambda: self.networks("mx2") == 2, "the other host")
        self.fail_to_log_in(self.two, b"3")
        until(lambda: "192.0.2.7: repeated login failures" in self.two.log, "the delay")
        self.assertNotIn("repeated login failures", self.one.log)
