"""Servers that share a database: steered by it, and behind HAProxy, which checks their health."""

import json
import re
import subprocess
from urllib.error import HTTPError
from urllib.request import urlopen

from twisted.trial.unittest import TestCase

from examples.cluster.processes import free_port
from tests.live.harness import (
    LOOPBACK,
    Connection,
    Server,
    accepts,
    require_programs,
    run,
    temporary_directory,
    until,
)
from tests.live.postgresql import PostgreSQL, program
from tests.live.test_proxies import sample

FORWARDER = """
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s

listen database
    bind unix@{front}
    server database unix@{back}
"""

PROXY = b"PROXY UNKNOWN\r\n"

OPTIONS = ("--hide-version",), ("--workers", "2")
"""By the first of them, a client can tell the hosts apart."""


class HAProxy:
    """A process of HAProxy, which is stopped after the test at the latest."""

    def __init__(self, test, config):
        file = temporary_directory(test) / "haproxy.cfg"
        file.write_text(config)
        with file.with_name("log").open("wb") as log:
            self._process = subprocess.Popen(
                ["haproxy", "-db", "-f", str(file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        test.addCleanup(self.stop)

    def stop(self):
        """Stop it at once, with its connections."""
        self._process.terminate()
        self._process.wait(60)


class HostsTests(TestCase):
    """Two hosts, mx1 and mx2; mx1 reaches the database through a proxy that can be stopped."""

    def setUp(self):
        """Start the database and the hosts."""
        require_programs(self, "haproxy")
        if not program("initdb"):
            require_programs(self, "initdb")
        self.database = PostgreSQL(self)
        self.front = temporary_directory(self)
        self.start_forwarder()
        files = {
            "mx1": self.store_file("mx1", self.front),
            "mx2": self.store_file("mx2", self.database.directory),
        }
        self.store = f"sql:{files['mx2']}"
        done = run("popserv", "schema", "create", "--store", self.store)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.hosts = {
            name: self.start_host(name, path, more)
            for (name, path), more in zip(files.items(), OPTIONS, strict=True)
        }
        for name in self.hosts:
            until(lambda name=name: self.health(name) == (200, "ok\n"), f"the health of {name}")

    def start_forwarder(self):
        """Start the proxy between mx1 and the database."""
        socket = ".s.PGSQL.5432"
        front, back = self.front / socket, self.database.directory / socket
        self.forwarder = HAProxy(self, FORWARDER.format(front=front, back=back))
        until(lambda: accepts(str(front)), "the proxy of the database")

    def store_file(self, name, directory):
        """Write the file of the store of a host, and return its path."""
        path = temporary_directory(self) / f"{name}.toml"
        path.write_text(f'conninfo = "host={directory} user=mail dbname=postgres"\npatience = 2\n')
        path.chmod(0o600)
        return path

    def start_host(self, name, path, more):
        """Start a server."""
        auth = [f"memory:user{number}:secret" for number in range(9)]
        server = Server(
            *("--listen", f"haproxy:{LOOPBACK}", "--allow-plaintext", "--metrics", LOOPBACK),
            *("--hostname", name, "--drain", "60", *more),
            *(each for value in auth for each in ("--auth", value)),
            store=("--store", f"sql:{path}"),
        )
        self.addCleanup(server.stop)
        until(lambda: len(server.ports) >= 2, "the port of the metrics")
        return server

    def health(self, name):
        """Return the status and the text of a health check."""
        url = f"http://127.0.0.1:{self.hosts[name].ports[1]}/healthz"
        try:
            with urlopen(url, timeout=10) as response:
                return response.status, response.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def start_balancer(self):
        """Start HAProxy with the configuration in contrib; return its port, once both are up."""
        plain, tls = free_port(), free_port()
        text = sample("haproxy/popserv-cluster.cfg")
        for name, address in (("mx1", "192.0.2.11"), ("mx2", "192.0.2.12")):
            pop3, metrics = self.hosts[name].ports[:2]
            text = text.replace(f"{name} {address}:110", f"{name} 127.0.0.1:{pop3} port {metrics}")
            text = text.replace(f"{name} {address}:995", f"{name} 127.0.0.1:{pop3}")
        text = text.replace("bind :110", f"bind 127.0.0.1:{plain}")
        text = text.replace("bind :995", f"bind 127.0.0.1:{tls}").replace("inter 2s", "inter 100ms")
        HAProxy(self, text)
        until(lambda: accepts(("127.0.0.1", plain)), "HAProxy")
        until(lambda: {self.serving(plain) for _ in range(4)} == {"mx1", "mx2"}, "both hosts")
        return plain

    def serving(self, port):
        """Return the name of the host that serves a new connection."""
        connection = Connection(("127.0.0.1", port))
        self.addCleanup(connection.abandon)
        connection.ask(b"CAPA")
        shows_version = any(line.startswith(b"IMPLEMENTATION") for line in connection.lines())
        connection.close()
        return "mx2" if shows_version else "mx1"

    def log_in(self, port, number):
        """Log in as one of the users, and end the session; return the beginning of the reply."""
        header = b"" if port not in {each.port for each in self.hosts.values()} else PROXY
        connection = Connection(("127.0.0.1", port), header=header)
        self.addCleanup(connection.abandon)
        connection.ask(b"USER user%d" % (number % 9))
        reply = connection.ask(b"PASS secret")
        connection.close()
        return reply[:3]

    def command(self, *arguments, code=0):
        """Run a command of popserv for all hosts, and return its output."""
        done = run("popserv", arguments[0], "--store", self.store, *arguments[1:])
        self.assertEqual((done.returncode, done.stderr if not code else b""), (code, b""))
        return (done.stdout + done.stderr).decode()

    def sessions(self):
        """Return the connections of all hosts."""
        return [json.loads(line) for line in self.command("who", "--json").splitlines()]

    def status(self):
        """Return the hosts by their names."""
        listed = map(json.loads, self.command("status", "--json").splitlines())
        return {each["host"]: each for each in listed}

    def test_steered(self):
        """Sessions on all hosts are listed and ended, and a host that dies is soon unlisted."""
        sessions = {
            host: self.hosts[host].login(user)
            for host, user in (("mx1", "user1"), ("mx2", "user2"))
        }
        for each in sessions.values():
            self.addCleanup(each.abandon)
        self.assertEqual(
            [(each["host"], each["user"]) for each in self.sessions()],
            [("mx1", "user1"), ("mx2", "user2")],
        )
        self.assertEqual(self.command("kick", "user2"), "1 connection ended\n")
        self.assertIn(b"ended your session", sessions["mx2"].line())
        self.hosts["mx1"].login("user2").close()
        self.assertIn("has no connection", self.command("kick", "user2", code=1))
        status = self.status()
        self.assertEqual([status[name]["sessions"] for name in ("mx1", "mx2")], [1, 0])
        self.hosts["mx2"].process.kill()
        self.database.execute("UPDATE host SET seen = seen - interval '4 s' WHERE name = 'mx2'")
        listed = self.command("status", code=1)
        self.assertRegex(listed, r"(?m)^mx1 .* serving .*\nmx2 .* silent ")
        self.assertIn("host mx2, ID", listed)
        self.database.execute("UPDATE host SET seen = seen - interval '31 s' WHERE name = 'mx2'")
        self.assertEqual(list(self.status()), ["mx1"])
        sessions["mx1"].close()
        self.hosts["mx1"].process.terminate()
        self.hosts["mx1"].process.wait(60)
        self.assertIn("no server uses the store", self.command("who", code=1))

    def test_balancer(self):
        """New connections go to the host that reaches the database, and does not drain."""
        port = self.start_balancer()
        self.forwarder.stop()
        until(lambda: self.health("mx1") == (503, "the store cannot be reached\n"), "a bad health")
        until(lambda: {self.serving(port) for _ in range(3)} == {"mx2"}, "the healthy host")
        # As long as mx1 is cut off, no login through the balancer gets there, and none is refused.
        self.assertEqual([self.log_in(port, at) for at in range(30)], [b"+OK"] * 30)
        self.assertEqual(self.health("mx1")[0], 503)
        self.assertEqual(self.log_in(self.hosts["mx1"].port, 0), b"-ER")
        self.start_forwarder()
        until(lambda: self.health("mx1")[0] == 200, "a good health")
        until(lambda: {self.serving(port) for _ in range(4)} == {"mx1", "mx2"}, "both hosts")
        session = self.hosts["mx2"].login("user3")
        self.assertIn("have 60 seconds", self.command("drain", "--host", "mx2"))
        until(lambda: self.health("mx2") == (503, "draining\n"), "the drain")
        self.assertEqual({self.serving(port) for _ in range(3)}, {"mx1"})
        self.assertEqual(self.status()["mx2"]["state"], "draining")
        self.assertTrue(session.close().startswith(b"+OK"))
        self.assertEqual(self.hosts["mx2"].process.wait(60), 0)
        self.assertEqual(list(self.status()), ["mx1"])
        self.database.stop()
        until(lambda: self.health("mx1")[0] == 503, "a bad health")
        self.database.start()
        until(lambda: self.health("mx1")[0] == 200, "a good health")
        self.assertIsNone(re.search("Traceback", self.hosts["mx1"].log))
