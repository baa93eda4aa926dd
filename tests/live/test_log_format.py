"""``--log-format``: programs read the log of a real server."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

from twisted.trial.unittest import TestCase

from popserv.logs.journal import JournalObserver
from popserv.logs.records import FIELDS
from tests.live.harness import Server, require_programs, run, temporary_directory, until

JOURNALD = "/lib/systemd/systemd-journald"
NAME = 'a"b\\c{user}'
NAMES = [
    NAME,
    '198.51.100.1:1: login of "x" by PASS failed: x',
    "\u00e9\u202e\u2028",
]


def end_session(server, name):
    """Log in, retrieve the message, and fail to log in; wait until the server has logged it."""
    connection = server.login(name)
    connection.ask(b"RETR 1")
    connection.lines()
    connection.close()
    connection = server.connect()
    connection.ask(b"USER " + NAME.encode())
    connection.ask(b"PASS wrong")
    connection.abandon()


SESSION = {
    "event": "session",
    "method": "PASS",
    "tls": "no TLS",
    "reason": "QUIT",
    "retrieved": 1,
    "octets": 3,
    "removed": 0,
    "left": 1,
}


class JSONTests(TestCase):
    """``--log-format json``."""

    def test_lines(self):
        """Each line is one object, also from workers, and a session has one with all counts."""
        for workers in ("1", "2"):
            # Twisted's lines about ports are the harness's only way to learn them.
            server = JSONServer("--log-format", "json", "--workers", workers)
            self.addCleanup(server.stop)
            name, _ = server.add_user([b"x\n"])
            end_session(server, name)
            server.stop()
            events = [json.loads(line) for line in server.log.splitlines()]
            sessions = [each for each in events if each.get("event") == "session"]
            self.assertEqual(len(sessions), 1)
            self.assertEqual({**sessions[0], **SESSION, "user": name}, sessions[0])
            self.assertEqual("worker" in sessions[0], workers == "2")
            (failed,) = [each for each in events if each.get("event") == "login-failed"]
            self.assertEqual(failed["level"], "warn")
            self.assertEqual(failed["user"], 'a\\"b\\\\c{user}')
            standard = {"time", "level", "source", "message", "worker", "traceback"}
            for each in events:
                self.assertLessEqual(set(each), standard | set(FIELDS))


class JSONServer(Server):
    """A server whose log has Twisted's lines as objects."""

    @property
    def ports(self):
        """The TCP ports."""
        return [int(port) for port in re.findall(r"starting on (\d+)\"", self.log)]


class JournalTests(TestCase):
    """``--log-format journald``, with a journal of its own."""

    def setUp(self):
        """Start the journal."""
        require_programs(self, JOURNALD, "journalctl")
        if os.geteuid():
            self.skipTest("only root can start systemd-journald")
        self.name = f"popserv{os.getpid()}"
        self.socket = Path(f"/run/systemd/journal.{self.name}/socket")
        self.journald = subprocess.Popen(
            [JOURNALD, self.name], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.addCleanup(self.stop)
        until(self.socket.exists, "the journal")

    def stop(self):
        """Stop the journal, and remove what it has written."""
        self.journald.terminate()
        self.journald.wait()
        for place in ("/run/systemd/journal", "/run/log/journal", "/var/log/journal"):
            for path in Path(place).parent.glob(f"journal.{self.name}"):
                shutil.rmtree(path)
            for path in Path(place).glob(f"*.{self.name}"):
                shutil.rmtree(path)

    def entries(self):
        """Return the entries that popserv has written, as journalctl reads them."""
        done = run("journalctl", f"--namespace={self.name}", "--output", "json", "--all")
        entries = [json.loads(line) for line in done.stdout.splitlines()]
        return [each for each in entries if each.get("SYSLOG_IDENTIFIER") == "popserv"]

    def test_entries(self):
        """What the observer sends is what journalctl reads, whatever it is, and however large."""
        observer = JournalObserver(self.fail, str(self.socket))
        self.addCleanup(lambda: observer._socket.close())
        texts = [*NAMES, "two\nlines\n", "a\0b\x1b[2K", "=", "x" * 300_000, "\ud800", " "]
        for text in texts:
            observer({"log_format": "{user}", "user": text, "event": "login"})
        found = until(
            lambda: (entries := self.entries()) and len(entries) == len(texts) and entries,
            "the entries",
        )
        # journalctl shows what is not printable as octets.
        read = [
            [bytes(each).decode() if isinstance(each, list) else each for each in values]
            for values in ((entry["MESSAGE"], entry["POPSERV_USER"]) for entry in found)
        ]
        shown = [text.encode("utf-8", "backslashreplace").decode() for text in texts]
        self.assertEqual(read, [[text, text] for text in shown])
        self.assertEqual({entry["POPSERV_EVENT"] for entry in found}, {"login"})
        self.assertEqual({entry["PRIORITY"] for entry in found}, {"6"})

    def server(self):
        """Start a server with workers, for which the journal is that of the machine."""
        private, moved = self.socket.parent, temporary_directory(self)
        script = (
            f"mount --bind {private} {moved} && mount -t tmpfs none /run/systemd "
            f"&& mkdir /run/systemd/journal && mount --bind {moved} /run/systemd/journal "
            '&& exec "$@"'
        )
        prefix = ("unshare", "--mount", "sh", "-c", script, "sh")
        server = JournalServer("--log-format", "journald", "--workers", "2", prefix=prefix)
        self.addCleanup(server.stop)
        return server

    def test_server(self):
        """A server sends its log to the journal, and what the journal misses to standard output."""
        if run("unshare", "--mount", "true").returncode:
            self.skipTest("mount namespaces are required")
        JournalServer.entries = lambda _: self.entries()
        server = self.server()
        name, _ = server.add_user([b"x\n"])
        end_session(server, name)

        def sessions():
            return [each for each in self.entries() if each.get("POPSERV_EVENT") == "session"]

        (session,) = until(sessions, "the session")
        expected = {f"POPSERV_{key.upper()}": str(value) for key, value in SESSION.items()}
        self.assertEqual({**session, **expected, "POPSERV_USER": name}, session)
        self.assertIn(session["POPSERV_WORKER"], ("1", "2"))
        self.assertEqual(session["_PID"], str(server.process.pid))
        self.assertNotIn("session of", server.log)
        self.journald.terminate()
        self.journald.wait()
        server.login(name).close()
        until(lambda: "session of" in server.log, "a line of text")
        self.assertIn("the systemd journal cannot be reached: Connection refused", server.log)


class JournalServer(Server):
    """A server whose log is in the journal."""

    @property
    def ports(self):
        """The TCP ports."""
        texts = [each["MESSAGE"] for each in self.entries()]
        return [int(port) for port in re.findall(r"starting on (\d+)$", "\n".join(texts), re.M)]
