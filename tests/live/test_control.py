"""``--control``, ``--drain`` and the commands of ``popserv`` for a running server."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time

from tests.live.harness import (
    BIN,
    CHECKOUT,
    TIMEOUT,
    Connection,
    Poller,
    Server,
    ServerTestCase,
    accepts,
    run,
    temporary_directory,
    until,
)
from tests.transports.test_liveness import vanish

ENDED = b"-ERR [SYS/TEMP] the server has ended your session, try again later"
ENDED_BY_SIGTERM = (0, -signal.SIGTERM)
"""The exit codes of twistd, which sends itself the signal again at its end."""


class ControlMixin:
    """Tests of servers that have a control socket."""

    def new_server(self):
        """Start the server of this class."""
        type(self).path = temporary_directory() / "control"
        return Server("--control", f"unix:{self.path}", *self.options)

    def command(self, *arguments, code=0):
        """Run a command of popserv; return its output."""
        name, *more = arguments
        done = run("popserv", name, "--control", f"unix:{self.path}", *more)
        self.assertEqual((done.returncode, done.stderr if not code else b""), (code, b""))
        return (done.stdout + done.stderr).decode()

    def sessions(self):
        """Return the connections that are listed."""
        return [json.loads(line) for line in self.command("who", "--json").splitlines()]

    def status(self):
        """Return the status."""
        return json.loads(self.command("status", "--json"))


class ProcessTests(ControlMixin, ServerTestCase):
    """A server of one process."""

    def test_mode(self):
        """Only the owner of the socket can use it."""
        self.assertTrue(self.server.port)
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)

    def test_sessions(self):
        """A session is listed and kicked: its client is told, and its maildrop free at once."""
        name, _ = self.server.add_user([b"one\n"])
        connection = self.server.login(name)
        connection.ask(b"RETR 1")
        connection.lines()
        (listed,) = [each for each in self.sessions() if each["user"] == name]
        self.assertEqual(
            [listed[key] for key in ("method", "state", "messages", "octets", "tls")],
            ["PASS", "TRANSACTION", 1, 5, None],
        )
        self.assertEqual(self.command("kick", listed["id"]), "1 connection ended\n")
        self.server.login(name).close()
        self.assertEqual(connection.line(), ENDED)
        self.assertEqual(connection.rest(), b"")
        connection.abandon()
        ended = f'session of "{name}" ended, by the administrator'
        until(lambda: ended in self.server.log, "the end of the session in the log")

    def test_hand_over(self):
        """A new login gets the maildrop of a client that has vanished, also in another worker."""
        name, _ = self.server.add_user([b"one\n"])
        session = self.server.login(name)
        self.addCleanup(session.abandon)
        (old,) = [each for each in self.sessions() if each["user"] == name]
        others = [self.server.connect() for _ in range(8)]
        for each in others:
            self.addCleanup(each.abandon)
        process_of = {each["address"]: each["id"].partition(".")[0] for each in self.sessions()}

        def process(connection):
            return process_of["{}:{}".format(*connection.socket.getsockname())]

        # In another process than the session, if there is one.
        new = min(others, key=lambda each: process(each) == old["id"].partition(".")[0])
        new.ask(b"USER " + name.encode())
        self.assertEqual(new.ask(b"PASS secret"), b"-ERR [IN-USE] maildrop already locked")
        self.assertEqual(session.ask(b"DELE 1")[:3], b"+OK")
        vanish(session.socket)
        time.sleep(1.1)
        new.ask(b"USER " + name.encode())
        self.assertEqual(new.ask(b"PASS secret")[:3], b"+OK")
        self.assertEqual(new.ask(b"STAT"), b"+OK 1 5")
        ended = f'session of "{name}" ended, replaced by a new login'
        until(lambda: ended in self.server.log, "the end of the session in the log")

    def test_others(self):
        """The state is told, the log level changed, files are read again."""
        before = self.status()
        self.server.connect().close()
        self.assertEqual(self.status()["accepted"], before["accepted"] + 1)
        self.assertEqual(self.command("log-level", "error"), "error\n")
        name, _ = self.server.add_user()
        self.server.login(name).close()
        self.assertNotIn(f'"{name}" logged in', self.server.log)
        self.command("log-level", "info")
        self.command("reload")
        self.assertIn("popserv reload: files that have changed are read again", self.server.log)
        self.assertIn("is no IP address", self.command("unblock", "x", code=1))

    def test_wrong_clients(self):
        """Clients that stall or send megabytes hold nobody up."""
        self.assertTrue(self.server.port)
        for data in (b"", b"\x00\x06_", b"USER ann\r\n", b"\x00\x01x\xff" * (1 << 20)):
            client = socket.socket(socket.AF_UNIX)
            self.addCleanup(client.close)
            client.connect(str(self.path))
            try:
                client.sendall(data)
            except OSError:
                self.assertGreater(len(data), 1 << 20)
        self.assertIn("version", self.status())
        for reason in ("it does not speak AMP", "it has sent a command of more than 4096 octets"):
            self.assertIn(f"control client disconnected: {reason}", self.server.log)


class WorkersTests(ProcessTests):
    """The same with workers."""

    options = ("--workers", "2", "--drain", "20")

    def test_replace(self):
        """All workers are replaced, and a client that polls throughout is never refused."""
        name, _ = self.server.add_user([b"one\n"])
        session = self.server.login(name)
        before = until(lambda: len(self.serving()) == 2 and self.serving(), "the workers")
        seen = [before]
        with Poller(("127.0.0.1", self.server.port)) as poller:
            poller.wait()
            self.command("drain", "--workers")
            while before & seen[-1]:
                # In each state there are clients.
                poller.wait()
                if self.serving() != seen[-1]:
                    seen.append(self.serving())
            poller.wait()
        # One after the other, which may be over before the next look.
        self.assertIn([len(each & before) for each in seen], ([2, 1, 0], [2, 0]))
        self.assertEqual(set().union(*poller.outcomes), {"served"})
        self.assertEqual(session.ask(b"NOOP")[:3], b"+OK")
        (listed,) = [each for each in self.sessions() if each["user"] == name]
        self.assertIn(int(listed["id"].partition(".")[0]), before)
        session.close()
        until(lambda: len(self.status()["workers"]) == 2, "the workers that were replaced")

    def serving(self):
        """Return the process IDs of the workers that accept connections."""
        return {each["pid"] for each in self.status()["workers"] if each["state"] == "serving"}

    def test_leaving(self):
        """A worker that is told to stop has a successor at once, and its sessions go on."""
        name, _ = self.server.add_user([b"one\n"])
        session = self.server.login(name)
        (listed,) = [each for each in self.sessions() if each["user"] == name]
        pid = int(listed["id"].partition(".")[0])
        with Poller(("127.0.0.1", self.server.port)) as poller:
            poller.wait()
            os.kill(pid, signal.SIGTERM)
            until(lambda: len(self.serving() - {pid}) == 2, "a successor")
            poller.wait()
        self.assertEqual(set().union(*poller.outcomes), {"served"})
        self.assertEqual(session.ask(b"NOOP")[:3], b"+OK")
        session.close()
        until(lambda: len(self.status()["workers"]) == 2, "the end of the worker")


class DrainTests(ServerTestCase):
    """SIGTERM with --drain."""

    options = ("--drain", "60")

    def start(self, *options):
        """Start a server; return it and a session."""
        server = Server(*self.options, *options)
        self.addCleanup(server.stop)
        name, _ = server.add_user([b"one\n"])
        return server, server.login(name)

    def assert_refused(self, server):
        """Wait until the server accepts no connections."""
        until(lambda: not accepts(("127.0.0.1", server.port)), "closed ports")

    def test_session_ends(self):
        """Sessions end in order while no more connections are accepted."""
        for options in ((), ("--workers", "2")):
            server, session = self.start(*options)
            server.process.send_signal(signal.SIGTERM)
            self.assert_refused(server)
            self.assertEqual(session.ask(b"DELE 1")[:3], b"+OK")
            self.assertEqual(session.close()[:3], b"+OK")
            self.assertIn(server.process.wait(TIMEOUT), ENDED_BY_SIGTERM)
            self.assertIn("ended, QUIT", server.log)
            self.assertIn("sessions have 60 s to end", server.log)
            self.assertNotIn("Traceback", server.log)

    def test_drained_twice(self):
        """Popserv drain during a drain changes the time that the sessions have."""
        for options in ((), ("--workers", "2")):
            path = temporary_directory(self) / "control"
            server, session = self.start("--control", f"unix:{path}", *options)
            drain = ("popserv", "drain", "--control", f"unix:{path}", "--seconds")
            self.assertEqual(run(*drain, "600").returncode, 0)
            self.assert_refused(server)
            self.assertEqual(session.ask(b"NOOP")[:3], b"+OK")
            self.assertEqual(run(*drain, "0").returncode, 0)
            self.assertEqual(session.rest(), b"")
            session.abandon()
            self.assertIn(server.process.wait(TIMEOUT), ENDED_BY_SIGTERM)
            self.assertIn("ended, shutdown", server.log)
            self.assertNotIn("Traceback", server.log)

    def test_second_signal(self):
        """A second SIGTERM ends the sessions that are left."""
        for options in ((), ("--workers", "2")):
            server, session = self.start(*options)
            server.process.send_signal(signal.SIGTERM)
            self.assert_refused(server)
            server.process.send_signal(signal.SIGTERM)
            self.assertEqual(session.rest(), b"")
            session.abandon()
            self.assertIn(server.process.wait(TIMEOUT), ENDED_BY_SIGTERM)
            self.assertIn("ended, shutdown", server.log)
            self.assertNotIn("Traceback", server.log)


class UpgradeTests(ServerTestCase):
    """Two servers, one after the other, on a socket that both have inherited."""

    STARTER = """\
import os, sys
listening, *command = sys.argv[1:]
os.dup2(int(listening), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="pop3")
os.execv(command[0], command)
"""

    def start(self, root, listening, *options):
        """Start a server on a socket, as systemd does; return its process and its log."""
        log = temporary_directory(self) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-c", self.STARTER, str(listening.fileno())),
                    *(str(BIN / "twistd"), "--nodaemon", "--pidfile=", "pop3"),
                    *("--maildir", str(root), "--listen", "systemd:domain=INET:index=0"),
                    *options,
                ],
                pass_fds=[listening.fileno()],
                stdout=output,
                stderr=output,
                cwd=root,
                env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            )
        self.addCleanup(process.wait, TIMEOUT)
        self.addCleanup(process.terminate)
        return process, log

    def test_upgrade(self):
        """A client that polls throughout an upgrade is never refused, and no session is cut."""
        first_server = Server()
        self.addCleanup(first_server.stop)
        name, _ = first_server.add_user([b"one\n"])
        other, _ = first_server.add_user([b"one\n"])
        for options in ((), ("--workers", "2")):
            listening = socket.create_server(("127.0.0.1", 0))
            self.addCleanup(listening.close)
            address = listening.getsockname()
            old, old_log = self.start(first_server.root, listening, "--drain", "60", *options)
            session = self.logged_in(address, name)
            with Poller(address) as poller:
                poller.wait()
                new, new_log = self.start(first_server.root, listening, *options)
                # Also while the new server starts, and while both serve.
                until(lambda log=new_log: "starting on" in log.read_text(), "a port")
                poller.wait()
                old.send_signal(signal.SIGTERM)
                until(lambda log=old_log: "no more connections" in log.read_text(), "the drain")
                poller.wait()
                self.logged_in(address, other).close()
                self.assertEqual(session.ask(b"RETR 1"), b"+OK 5 octets")
                self.assertEqual(session.lines(), [b"one"])
                self.assertIsNone(old.poll())
                session.close()
                self.assertIn(old.wait(TIMEOUT), ENDED_BY_SIGTERM)
                poller.wait()
            self.assertEqual(set().union(*poller.outcomes), {"served"})
            self.assertIn(f'"{other}" logged in', new_log.read_text())
            new.terminate()
            self.assertIn(new.wait(TIMEOUT), ENDED_BY_SIGTERM)

    def test_restart(self):
        """Clients that connect while no server runs wait for the next one, as with systemd."""
        server = Server()
        self.addCleanup(server.stop)
        for options in ((), ("--workers", "2")):
            listening = socket.create_server(("127.0.0.1", 0))
            self.addCleanup(listening.close)
            address = listening.getsockname()
            old, _ = self.start(server.root, listening, "--drain", "60", *options)
            self.assertEqual(Connection(address).close()[:3], b"+OK")
            old.terminate()
            self.assertIn(old.wait(TIMEOUT), ENDED_BY_SIGTERM)
            clients = [socket.create_connection(address, TIMEOUT) for _ in range(20)]
            new, _ = self.start(server.root, listening, *options)
            for client in clients:
                self.assertEqual(client.recv(3), b"+OK")
                client.close()
            new.terminate()
            self.assertIn(new.wait(TIMEOUT), ENDED_BY_SIGTERM)

    def logged_in(self, address, name):
        """Return a connection that is logged in."""
        connection = Connection(address)
        connection.ask(b"USER " + name.encode())
        self.assertEqual(connection.ask(b"PASS secret")[:3], b"+OK")
        return connection
