"""The benchmarks: that they run, and above all that they notice a wrong reply.

Nothing here is measured, and nothing depends on how fast the machine is.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
from functools import cache
from threading import Thread

from twisted.trial.unittest import SkipTest, TestCase

from tests.live.harness import CHECKOUT, PATIENCE, temporary_directory

GREETING = b"+OK hello\r\n"
LOGIN = [b"+OK\r\n", b"+OK\r\n"]
LIST = b"+OK\r\n1 6\r\n2 5\r\n.\r\n"
RETR = b"+OK\r\n.." + b"abc\r\n.\r\n"
BYE = b"+OK\r\n"


@cache
def program():
    """Return the load generator, built; skip without a compiler, but where all must be run."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        if os.environ.get("CI"):
            raise AssertionError("there is no C compiler, and CI is set")
        raise SkipTest("there is no C compiler")
    built = temporary_directory() / "load"
    source = CHECKOUT / "benchmarks" / "load.c"
    options = ("-O1", "-Wall", "-Wextra", "-Werror", "-pthread")
    subprocess.run([compiler, *options, "-o", built, source], check=True)
    return built


class Liar:
    """A server that answers each line with the next of its replies, whatever was asked."""

    def __init__(self, test, *replies):
        self._replies = replies
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = Thread(target=self._serve, daemon=True)
        self._thread.start()
        test.addCleanup(self._end)

    def _serve(self):
        connection, _ = self._listener.accept()
        with connection, connection.makefile("rb") as lines:
            connection.settimeout(PATIENCE)
            try:
                connection.sendall(GREETING)
                for reply in self._replies:
                    if not lines.readline():
                        return
                    connection.sendall(reply)
            except ConnectionError:
                pass  # the load leaves when it has seen enough

    def _end(self):
        # Wakes accept(), if nobody came.
        socket.create_connection(("127.0.0.1", self.port)).close()
        self._thread.join(PATIENCE)
        self._listener.close()


class CheckTests(TestCase):
    """What the load generator says of replies."""

    def load(self, kind, *replies, options=()):
        """Run one call of a kind against these replies; return its answer, or what is wrong."""
        liar = Liar(self, *replies)
        command = [program(), kind, "--port", str(liar.port), "--user", "joe", "--calls", "1"]
        done = subprocess.run(
            [*command, "--warm", "0", *options],
            input="\n\n",
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE,
            check=False,
        )
        if done.returncode:
            self.assertEqual(done.returncode, 1, done.stderr)
            return done.stderr
        ready, answer = done.stdout.splitlines()
        self.assertEqual(ready, "ready")
        return json.loads(answer)

    def test_right(self):
        """Right replies are counted: here one message, whose line began with a dot."""
        found = self.load("retr", *LOGIN, LIST, RETR, BYE)
        self.assertEqual((found["operations"], found["octets"]), (1, 6))

    def test_poll(self):
        """A whole session is one operation."""
        uidl = b"+OK\r\n1 a\r\n2 b\r\n.\r\n"
        found = self.load("poll", *LOGIN, uidl, LIST, BYE, options=("--messages", "2"))
        self.assertEqual(found["operations"], 1)

    def test_bare(self):
        """A server that says it counts bare LF is held to that."""
        listed = b"+OK\r\n1 5\r\n.\r\n"
        self.assertEqual(
            self.load("retr", *LOGIN, listed, RETR, BYE, options=("--bare",))["operations"], 1
        )
        self.assertIn("octets", self.load("retr", *LOGIN, LIST, RETR, BYE, options=("--bare",)))

    def test_octets(self):
        """A message of other octets than LIST told is noticed, be it one more or one less."""
        for body in (b"abcde\r\n", b"abc\r\n", b"..abcd\r\n"):
            wrong = self.load("retr", *LOGIN, LIST, b"+OK\r\n" + body + b".\r\n")
            self.assertIn("RETR 1 has", wrong)

    def test_dele(self):
        """RETR before DELE is checked, too."""
        self.assertIn("RETR 1 has", self.load("dele", *LOGIN, LIST, b"+OK\r\nabc\r\n.\r\n"))

    def test_status(self):
        """Every status line must be +OK, and nothing that begins so."""
        self.assertIn("USER was answered: -ERR no", self.load("login", b"-ERR no\r\n"))
        self.assertIn("PASS was answered", self.load("login", b"+OK\r\n", b"+OKAY\r\n"))
        self.assertIn("NOOP was answered", self.load("noop", *LOGIN, b"-ERR\r\n"))
        self.assertIn("QUIT was answered", self.load("login", *LOGIN, b"+OK 1 2\r\n", b"-ERR\r\n"))

    def test_terminator(self):
        """A response without its end, or with a dot that is neither end nor stuffed, is noticed."""
        self.assertIn("closed", self.load("retr", *LOGIN, LIST, b"+OK\r\nabcd\r\n"))
        self.assertIn("one dot", self.load("retr", *LOGIN, LIST, b"+OK\r\n.abc\r\n.\r\n"))

    def test_line_ends(self):
        """A line that ends with LF alone is noticed."""
        self.assertIn("CRLF", self.load("retr", *LOGIN, LIST, b"+OK\r\nabcd\n.\r\n"))

    def test_counts(self):
        """UIDL, LIST and STAT must number the messages that there are."""
        two = ("--messages", "2")
        self.assertIn("STAT tells", self.load("login", *LOGIN, b"+OK 3 9\r\n", options=two))
        for listed in (b"1 a\r\n", b"1 a\r\n3 b\r\n", b"1 a\r\n2\r\n", b"1 a\r\n2 b\r\n3 c\r\n"):
            reply = b"+OK\r\n" + listed + b".\r\n"
            self.assertIn("UIDL", self.load("poll", *LOGIN, reply, options=two), listed)
        uidl = b"+OK\r\n1 a\r\n.\r\n"
        self.assertIn("LIST tells", self.load("poll", *LOGIN, uidl, LIST))

    def test_top(self):
        """TOP n 0 is the header, the empty line, and nothing more."""
        self.assertEqual(
            self.load("top", *LOGIN, LIST, b"+OK\r\nA:\r\n\r\n.\r\n", BYE)["operations"], 1
        )
        for wrong in (b"A:\r\n", b"\r\nab\r\n"):
            reply = b"+OK\r\n" + wrong + b".\r\n"
            self.assertIn("header's end", self.load("top", *LOGIN, LIST, reply))

    def test_behind_quit(self):
        """Nothing follows the goodbye."""
        self.assertIn("behind", self.load("login", *LOGIN, b"+OK 1 6\r\n", b"+OK\r\n+OK\r\n"))


class SuiteTests(TestCase):
    """The whole of it, with as little to do as can be."""

    def test_every_workload(self):
        """Every workload runs on popserv, and on its peers where they are installed."""
        results = temporary_directory(self)
        run = [sys.executable, CHECKOUT / "benchmarks" / "run.py", "--tiny"]
        done = subprocess.run(
            [*run, "--load", program(), "--results", results, "--directory", results],
            capture_output=True,
            text=True,
            timeout=10 * PATIENCE,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        found = json.loads((results / "latest.json").read_text())
        self.assertEqual(set(found["results"]), set(found["targets"]))
        # Dovecot is missing for two.
        least = 4 - 2 * len(found["about"]["absent"])
        for workload, peers in found["results"].items():
            self.assertGreaterEqual(len(peers), least, workload)
            self.assertIn("popserv", peers)
            for peer, runs in peers.items():
                self.assertEqual(len(runs), 1, f"{workload}, {peer}: {runs}")
        self.assertIn("connect, greeting", (results / "latest.md").read_text())
        left = {path.name for path in results.iterdir() if path.suffix != ".png"}
        self.assertEqual(left, {"latest.md", "latest.json"})

    def test_unknown_workload(self):
        """A workload that does not exist is refused with a list of those that do."""
        run = [sys.executable, CHECKOUT / "benchmarks" / "run.py", "--load", program()]
        done = subprocess.run(
            [*run, "--workload", "x"], capture_output=True, text=True, check=False
        )
        self.assertEqual(done.returncode, 2)
        self.assertIn("poll-500", done.stderr)
