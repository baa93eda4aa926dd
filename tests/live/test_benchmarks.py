"""The benchmarks: that they run, and above all that they notice a wrong reply.

Nothing here is measured, and nothing depends on how fast the machine is.
"""

import csv
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from functools import cache
from threading import Thread
from xml.etree import ElementTree

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

    def test_floor(self):
        """What cannot be undercut answers as the servers do, where no mail comes or goes."""
        names = "connect,login,poll-500,retr,retr-16,top,noop"
        results = temporary_directory(self)
        run = [sys.executable, CHECKOUT / "benchmarks" / "run.py", "--tiny", "--peers", "floor"]
        done = subprocess.run(
            [*run, "--workload", names, "--load", program(), "--results", results],
            capture_output=True,
            text=True,
            timeout=10 * PATIENCE,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        found = json.loads((results / "latest.json").read_text())["results"]
        self.assertEqual(set(found), set(names.split(",")))
        for workload, peers in found.items():
            self.assertEqual(len(peers["floor"]), 1, f"{workload}: {peers}")

    def test_unknown_workload(self):
        """A workload that does not exist is refused with a list of those that do."""
        run = [sys.executable, CHECKOUT / "benchmarks" / "run.py", "--load", program()]
        done = subprocess.run(
            [*run, "--workload", "x"], capture_output=True, text=True, check=False
        )
        self.assertEqual(done.returncode, 2)
        self.assertIn("poll-500", done.stderr)


class TinyTestCase(TestCase):
    """Has one of the other commands run, with as little to do as can be."""

    def run_tiny(self, command, *options, **environment):
        """Return the folder of its results, and what it said on stderr."""
        results = temporary_directory(self)
        run = [sys.executable, CHECKOUT / "benchmarks" / command, "--tiny", "--load", program()]
        done = subprocess.run(
            [*run, "--results", results, "--docs", results / "docs", *options],
            capture_output=True,
            text=True,
            timeout=10 * PATIENCE,
            check=False,
            env=os.environ | environment,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        return results, done.stderr

    def table(self, path):
        """Return the rows of a table for the documentation, by their first cell."""
        with path.open(newline="") as file:
            return {row[0]: row[1:] for row in csv.reader(file)}


class GrowthTests(TinyTestCase):
    """make bench-growth."""

    def test_growth(self):
        """Polls and memory of every server grow into a table, and a plot that the docs show."""
        results, _ = self.run_tiny("growth.py")
        polls = self.table(results / "docs" / "growth-poll.csv")
        self.assertEqual(list(polls), ["messages", "3", "30"])
        self.assertEqual(polls["messages"][0], "popserv")
        self.assertIn("twisted.mail", polls["messages"])
        memory = self.table(results / "docs" / "growth-memory.csv")
        self.assertEqual(list(memory), ["connections", "0", "1", "5", "a connection"])
        for row in (*polls.values(), *memory.values()):
            self.assertEqual(len(row), len(polls["messages"]))
            self.assertFalse([cell for cell in row if "fails" in cell])
        self.assertIn("mean nothing", (results / "growth.md").read_text())
        for plot in (results / "docs").glob("*.png"):
            self.assertLess(plot.stat().st_size, 60_000)

    def test_part(self):
        """One part can be run alone, and a larger maildrop than others take is popserv's alone."""
        results, _ = self.run_tiny("growth.py", "--part", "poll", "--peers-messages", "3")
        polls = self.table(results / "growth-poll.csv")
        self.assertEqual(set(polls["30"][1:]), {"not tried"})
        self.assertNotEqual(polls["30"][0], "not tried")
        self.assertFalse((results / "growth-memory.csv").exists())

    def test_no_plots(self):
        """Without matplotlib it is said that there are no plots, and the tables are there."""
        hidden = temporary_directory(self)
        (hidden / "matplotlib.py").write_text("raise ImportError\n")
        results, said = self.run_tiny(
            "growth.py", "--part", "poll", "--peers", "popserv", PYTHONPATH=str(hidden)
        )
        self.assertIn("matplotlib is missing", said)
        self.assertTrue((results / "growth-poll.csv").exists())
        self.assertEqual(list(results.rglob("*.png")), [])


class ProfileTests(TinyTestCase):
    """make profile."""

    def test_profile(self):
        """Rooms have all the time, functions are named, and system calls counted where they can."""
        results, said = self.run_tiny("profiles.py", "--workload", "login,retr", "--samples", "9")
        rooms = self.table(results / "docs" / "profile-rooms.csv")
        self.assertEqual(rooms["room"], ["login, us", "retr, us"])
        for at in (0, 1):
            parts = re.findall(r"(\d+)%", " ".join(row[at] for row in rooms.values()))
            # All of them are rounded.
            self.assertLess(abs(sum(map(int, parts)) - 100), 6)
        functions = self.table(results / "docs" / "profile-functions-retr.csv")
        self.assertTrue(
            [name for name in functions if name.startswith(("``twisted/", "``popserv/"))]
        )
        if "not counted" not in said:
            calls = self.table(results / "docs" / "profile-calls.csv")
            self.assertGreater(float(calls["sendto"][1]), 0.5)
        for name in ("login", "retr"):
            root = ElementTree.parse(results / f"flame-{name}.svg").getroot()
            self.assertTrue(root.findall(".//{*}rect"))

    def test_no_strace(self):
        """Without strace it is said that system calls are not counted, and the rest is there."""
        results, said = self.run_tiny(
            "profiles.py", "--workload", "noop", "--samples", "1", PATH="/nowhere"
        )
        self.assertIn("strace is missing", said)
        self.assertFalse((results / "docs" / "profile-calls.csv").exists())
        self.assertTrue((results / "docs" / "profile-rooms.csv").exists())
