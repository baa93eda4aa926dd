"""Tests of the benchmarks: they run, and they detect wrong replies.

Nothing is measured, and no test depends on the speed of the machine.
"""

import csv
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
from email import message_from_bytes, policy
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from xml.etree import ElementTree

from twisted.trial.unittest import SkipTest, SynchronousTestCase, TestCase

from tests.certificates import issue
from tests.live.harness import CHECKOUT, TIMEOUT, temporary_directory

GREETING = b"+OK hello\r\n"
LOGIN = [b"+OK\r\n", b"+OK\r\n"]
LIST = b"+OK\r\n1 6\r\n2 5\r\n.\r\n"
RETR = b"+OK\r\n.." + b"abc\r\n.\r\n"
BYE = b"+OK\r\n"


@cache
def program():
    """Build the load generator and return its path; without a compiler skip, or fail in CI."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        if os.environ.get("CI"):
            raise AssertionError("a C compiler is required if CI is set")
        raise SkipTest("a C compiler is missing")
    built = temporary_directory() / "load"
    source = CHECKOUT / "benchmarks" / "load.c"
    options = ("-O1", "-Wall", "-Wextra", "-Werror", "-pthread")
    subprocess.run([compiler, *options, "-o", built, source, "-lssl", "-lcrypto"], check=True)
    return built


class ScriptedServer:
    """A server that answers each line with the next of the given replies.

    ``tls`` is an ssl.SSLContext, or None; ``connections`` is the number of connections served.
    ``received`` contains the lines.
    """

    def __init__(self, test, *replies, tls=None, connections=1):
        self.received = []
        self._replies = replies
        self._tls = tls
        self._connections = connections
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = Thread(target=self._serve, daemon=True)
        self._thread.start()
        test.addCleanup(self._close)

    def _serve(self):
        for _ in range(self._connections):
            connection, _ = self._listener.accept()
            connection.settimeout(TIMEOUT)
            try:
                if self._tls is not None:
                    connection = self._tls.wrap_socket(connection, server_side=True)
            except OSError:
                connection.close()
            else:
                self._answer(connection)

    def _answer(self, connection):
        with connection, connection.makefile("rb") as lines:
            try:
                connection.sendall(GREETING)
                for reply in self._replies:
                    self.received.append(lines.readline())
                    if not self.received[-1]:
                        return
                    connection.sendall(reply)
            except ConnectionError:
                pass  # the load generator closes the connection after an error

    def _close(self):
        # Wake up accept() for the clients that have not connected.
        for _ in range(self._connections):
            socket.create_connection(("127.0.0.1", self.port)).close()
        self._thread.join(TIMEOUT)
        self._listener.close()


def module(name):
    """Import a module of the benchmarks, which are not a package."""
    spec = spec_from_file_location(name, CHECKOUT / "benchmarks" / f"{name}.py")
    found = module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


class MailTests(TestCase):
    """The generated mail."""

    def generate(self, *batches, kind="usual"):
        """Return the messages, generated in batches that end with these numbers."""
        mail = module("mail").Mail(temporary_directory(self))
        for number in batches:
            paths = mail.messages(kind, number)
        return [Path(path).read_bytes() for path in paths]

    def test_same(self):
        """The octets of a message do not depend on the others that are generated with it."""
        self.assertEqual(self.generate(3, 8), self.generate(8))

    def test_ordinary(self):
        """Some messages are 8-bit, some HTML, some have attachments, and few have dot lines."""
        found = self.generate(500)
        for pattern, low, high in (
            (rb"^\.", 0.01, 0.1),
            (rb"[\x80-\xff]", 0.1, 0.3),
            (rb"text/html", 0.1, 0.3),
            (rb"base64", 0.1, 0.3),
            (rb"\r", 0, 0),
        ):
            share = sum(bool(re.search(pattern, message, re.M)) for message in found) / 500
            self.assertTrue(low <= share <= high, (pattern, share))

    def test_dotted(self):
        """Of the lines of a dotted message about one in twenty begins with a dot."""
        lines = b"".join(self.generate(50, kind="dotted")).split(b"\n")
        share = sum(line.startswith(b".") for line in lines) / len(lines)
        self.assertTrue(0.03 < share < 0.06, share)

    def test_parsed(self):
        """A message is what its header says, without defects."""
        for content in self.generate(60):
            message = message_from_bytes(content, policy=policy.default)
            for part in message.walk():
                self.assertEqual(part.defects, [])
                if not part.is_multipart():
                    self.assertTrue(part.get_content())

    def test_sizes(self):
        """The sizes are in the range of the kind, to within a few lines."""
        sizes = [len(content) for content in self.generate(200)]
        self.assertTrue(2048 - 200 < min(sizes) < max(sizes) < 10240 + 400, sizes)


class RatioTests(TestCase):
    """The ratio in the tables."""

    def ratio(self, ours, theirs):
        """Return the ratio of the runs with these values."""
        ours, theirs = ([SimpleNamespace(value=value) for value in runs] for runs in (ours, theirs))
        return module("report").ratio(ours, theirs)

    def test_rounds(self):
        """It is the median of the ratios of each round, with their spread."""
        # The machine was twice as slow in the second round.
        self.assertEqual(self.ratio([1, 2, 1], [2, 4, 2]), (0.5, 0))
        self.assertEqual(self.ratio([1, 2, 3], [1, 1, 1]), (2, 0.5))

    def test_one_round(self):
        """One round has no spread."""
        self.assertEqual(self.ratio([1], [2]), (0.5, None))

    def test_failed(self):
        """There is no ratio to a server that failed or was not measured."""
        ratio = module("report").ratio
        for runs in ("it failed", [], None):
            self.assertIsNone(ratio(runs, [SimpleNamespace(value=1)]))
            self.assertIsNone(ratio([SimpleNamespace(value=1)], runs))


class CheckTests(TestCase):
    """The checks of the load generator."""

    def load(self, kind, *replies, options=(), **server):
        """Run one operation against these replies; return the result, or the error message."""
        self.server = ScriptedServer(self, *replies, **server)
        command = [program(), kind, "--port", str(self.server.port), "--user", "joe#"]
        done = subprocess.run(
            [*command, "--calls", "1", "--warm", "0", *options],
            input="\n\n",
            capture_output=True,
            text=True,
            timeout=2 * TIMEOUT,
            check=False,
        )
        if done.returncode:
            self.assertEqual(done.returncode, 1, done.stderr)
            return done.stderr
        ready, result = done.stdout.splitlines()
        self.assertEqual(ready, "ready")
        return json.loads(result)

    def test_right(self):
        """Correct replies are counted; the message has a line that starts with a dot."""
        result = self.load("retr", *LOGIN, LIST, RETR, BYE)
        self.assertEqual((result["operations"], result["octets"]), (1, 6))

    def test_poll(self):
        """A session with UIDL and LIST is one operation."""
        uidl = b"+OK\r\n1 a\r\n2 b\r\n.\r\n"
        result = self.load("poll", *LOGIN, uidl, LIST, BYE, options=("--messages", "2"))
        self.assertEqual(result["operations"], 1)

    def test_bare(self):
        """With --bare, LIST must count each line ending as one octet."""
        listed = b"+OK\r\n1 5\r\n.\r\n"
        self.assertEqual(
            self.load("retr", *LOGIN, listed, RETR, BYE, options=("--bare",))["operations"], 1
        )
        self.assertIn("octets", self.load("retr", *LOGIN, LIST, RETR, BYE, options=("--bare",)))

    def test_octets(self):
        """A message that is one octet longer or shorter than LIST reported is an error."""
        for body in (b"abcde\r\n", b"abc\r\n", b"..abcd\r\n"):
            error = self.load("retr", *LOGIN, LIST, b"+OK\r\n" + body + b".\r\n")
            self.assertIn("RETR 1 has", error)

    def test_dele(self):
        """The messages before DELE are checked as well."""
        self.assertIn("RETR 1 has", self.load("dele", *LOGIN, LIST, b"+OK\r\nabc\r\n.\r\n"))

    def test_life(self):
        """With life, LIST and RETR and DELE of every message are one operation."""
        replies = (*LOGIN, b"+OK\r\n1 6\r\n2 6\r\n.\r\n", RETR, b"+OK\r\n", RETR, b"+OK\r\n", BYE)
        self.assertEqual(self.load("life", *replies)["operations"], 1)
        self.assertEqual(self.load("dele", *replies)["operations"], 2)
        self.assertIn("DELE was answered", self.load("life", *replies[:4], b"-ERR\r\n"))

    def test_rotate(self):
        """With --rotate each session logs in as another user."""
        session = (*LOGIN, b"+OK 1 6\r\n", BYE)
        for options, users in (
            ((), [b"USER joe0\r\n"] * 2),
            (("--rotate",), [b"USER joe0\r\n", b"USER joe1\r\n"]),
        ):
            result = self.load("login", *session, options=("--calls", "2", *options), connections=2)
            self.assertEqual(result["operations"], 2)
            self.assertEqual(self.server.received[::4], users)

    def test_beside(self):
        """The durations are those of NOOP, and the operations those of RETR."""
        result = self.load("beside", *LOGIN, LIST, b"+OK\r\n", BYE)
        self.assertEqual(result["operations"], 0)
        self.assertEqual(result["p99"], result["slowest"])
        self.assertEqual(self.server.received[3], b"NOOP\r\n")

    def test_status(self):
        """Every status line must be +OK, and not only start with these letters."""
        self.assertIn("USER was answered: -ERR no", self.load("login", b"-ERR no\r\n"))
        self.assertIn("PASS was answered", self.load("login", b"+OK\r\n", b"+OKAY\r\n"))
        self.assertIn("NOOP was answered", self.load("noop", *LOGIN, b"-ERR\r\n"))
        self.assertIn("QUIT was answered", self.load("login", *LOGIN, b"+OK 1 2\r\n", b"-ERR\r\n"))

    def test_terminator(self):
        """A response without a terminator, or with an unstuffed dot, is an error."""
        self.assertIn("closed", self.load("retr", *LOGIN, LIST, b"+OK\r\nabcd\r\n"))
        self.assertIn("single dot", self.load("retr", *LOGIN, LIST, b"+OK\r\n.abc\r\n.\r\n"))

    def test_line_ends(self):
        """A line that ends with a bare LF is an error."""
        self.assertIn("CRLF", self.load("retr", *LOGIN, LIST, b"+OK\r\nabcd\n.\r\n"))

    def test_counts(self):
        """UIDL, LIST and STAT must report the number of messages in the maildrop."""
        two = ("--messages", "2")
        self.assertIn("STAT reports", self.load("login", *LOGIN, b"+OK 3 9\r\n", options=two))
        for listed in (b"1 a\r\n", b"1 a\r\n3 b\r\n", b"1 a\r\n2\r\n", b"1 a\r\n2 b\r\n3 c\r\n"):
            reply = b"+OK\r\n" + listed + b".\r\n"
            self.assertIn("UIDL", self.load("poll", *LOGIN, reply, options=two), listed)
        uidl = b"+OK\r\n1 a\r\n.\r\n"
        self.assertIn("LIST reports", self.load("poll", *LOGIN, uidl, LIST))

    def test_top(self):
        """The reply to TOP n 0 must be the header and the blank line."""
        self.assertEqual(
            self.load("top", *LOGIN, LIST, b"+OK\r\nA:\r\n\r\n.\r\n", BYE)["operations"], 1
        )
        for wrong in (b"A:\r\n", b"\r\nab\r\n"):
            reply = b"+OK\r\n" + wrong + b".\r\n"
            self.assertIn("blank line after the header", self.load("top", *LOGIN, LIST, reply))

    def test_data_after_quit(self):
        """Data after the reply to QUIT is an error."""
        self.assertIn("data after", self.load("login", *LOGIN, b"+OK 1 6\r\n", b"+OK\r\n+OK\r\n"))


class TLSCheckTests(TestCase):
    """The checks of the load generator over TLS."""

    def setUp(self):
        """Create a certificate."""
        self.certificate = temporary_directory(self) / "pop.pem"
        self.certificate.write_bytes(issue("pop.example.org").pem())
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(self.certificate)

    def connect(self, *options):
        """Connect three times; return the result, or the error message."""
        server = ScriptedServer(self, tls=self.context, connections=3)
        command = [program(), "connect", "--port", str(server.port), "--user", "joe"]
        done = subprocess.run(
            [*command, "--calls", "2", "--warm", "1", "--tls", self.certificate, *options],
            input="\n\n",
            capture_output=True,
            text=True,
            timeout=2 * TIMEOUT,
            check=False,
        )
        return done.stderr or json.loads(done.stdout.splitlines()[1])

    def test_right(self):
        """The server's certificate is accepted."""
        self.assertEqual(self.connect()["operations"], 2)

    def test_other_certificate(self):
        """Another certificate is an error."""
        self.certificate.write_bytes(issue("pop.example.org").certificate_pem())
        self.assertIn("certificate verify failed", self.connect())

    def test_version(self):
        """TLS 1.2 is an error."""
        self.context.maximum_version = ssl.TLSVersion.TLSv1_2
        self.assertIn("load: TLS handshake: ", self.connect())

    def test_resumption(self):
        """With --resume the share of resumed sessions is reported; without it none is offered."""
        self.assertEqual(self.connect()["resumed"], 0)
        self.assertEqual(self.connect("--resume")["resumed"], 1)
        self.context.num_tickets = 0
        self.assertEqual(self.connect("--resume")["resumed"], 0)


class SuiteTests(TestCase):
    """The whole benchmark, with as little mail as possible."""

    def test_every_workload(self):
        """Every workload succeeds on popserv, and on the other servers that are installed."""
        results = temporary_directory(self)
        run = [sys.executable, CHECKOUT / "benchmarks" / "run.py", "--tiny"]
        done = subprocess.run(
            [*run, "--load", program(), "--results", results, "--directory", results],
            capture_output=True,
            text=True,
            timeout=10 * TIMEOUT,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        found = json.loads((results / "latest.json").read_text())
        self.assertEqual(set(found["results"]), set(found["targets"]))
        dovecot = set() if found["about"]["left_out"] else {"dovecot, tuned", "dovecot"}
        for workload, peers in found["results"].items():
            others = {"popserv --workers 2"} if "cores" in workload else {"popserv", "twisted.mail"}
            self.assertEqual(set(peers), others | dovecot, workload)
            for peer, runs in peers.items():
                self.assertEqual(len(runs), 1, f"{workload}, {peer}: {runs}")
        (resumed,) = found["results"]["login-tls-resumed"]["popserv"]
        self.assertEqual(resumed["resumed"], 1)
        text = (results / "latest.md").read_text()
        for pattern in ("connection and greeting", "8 clients", "NOOP beside", r"> 1 (met|missed)"):
            self.assertRegex(text, pattern)
        names = {path.name for path in results.iterdir() if path.suffix != ".png"}
        self.assertEqual(names, {"latest.md", "latest.json"})

    def test_unknown_workload(self):
        """An unknown workload is rejected with a list of the known ones."""
        run = [sys.executable, CHECKOUT / "benchmarks" / "run.py", "--load", program()]
        done = subprocess.run(
            [*run, "--workload", "x"], capture_output=True, text=True, check=False
        )
        self.assertEqual(done.returncode, 2)
        self.assertIn("poll-500", done.stderr)


class TinyTestCase(TestCase):
    """Runs one of the other commands with as little mail as possible."""

    def run_tiny(self, command, *options, **environment):
        """Return the directory with the results, and the output on stderr."""
        results = temporary_directory(self)
        run = [sys.executable, CHECKOUT / "benchmarks" / command, "--tiny", "--load", program()]
        done = subprocess.run(
            [*run, "--results", results, "--docs", results / "docs", *options],
            capture_output=True,
            text=True,
            timeout=10 * TIMEOUT,
            check=False,
            env=os.environ | environment,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        return results, done.stderr

    def table(self, path):
        """Return the rows of a CSV file by their first cell."""
        with path.open(newline="") as file:
            return {row[0]: row[1:] for row in csv.reader(file)}


class GrowthTests(TinyTestCase):
    """The command growth.py."""

    def test_growth(self):
        """It writes a table and a small plot of the polls and of the memory of every server."""
        results, _ = self.run_tiny("growth.py")
        polls = self.table(results / "docs" / "growth-poll.csv")
        self.assertEqual(list(polls), ["messages", "3", "30"])
        self.assertEqual(polls["messages"][0], "popserv")
        self.assertIn("twisted.mail", polls["messages"])
        memory = self.table(results / "docs" / "growth-memory.csv")
        self.assertEqual(list(memory), ["connections", "0", "1", "5", "per connection"])
        for row in (*polls.values(), *memory.values()):
            self.assertEqual(len(row), len(polls["messages"]))
            self.assertFalse([cell for cell in row if "failed" in cell])
        self.assertIn("meaningless", (results / "growth.md").read_text())
        for plot in (results / "docs").glob("*.png"):
            self.assertLess(plot.stat().st_size, 60_000)

    def test_part(self):
        """--part runs one part alone; above --peers-messages only popserv is measured."""
        results, _ = self.run_tiny("growth.py", "--part", "poll", "--peers-messages", "3")
        polls = self.table(results / "growth-poll.csv")
        self.assertEqual(set(polls["30"][1:]), {"not measured"})
        self.assertNotEqual(polls["30"][0], "not measured")
        self.assertFalse((results / "growth-memory.csv").exists())

    def test_no_plots(self):
        """Without matplotlib it writes the tables, and reports that there are no plots."""
        hidden = temporary_directory(self)
        (hidden / "matplotlib.py").write_text("raise ImportError\n")
        results, output = self.run_tiny(
            "growth.py", "--part", "poll", "--peers", "popserv", PYTHONPATH=str(hidden)
        )
        self.assertIn("matplotlib is missing", output)
        self.assertTrue((results / "growth-poll.csv").exists())
        self.assertEqual(list(results.rglob("*.png")), [])


class SQLTests(TinyTestCase):
    """The command sql.py."""

    def test_sql(self):
        """It measures every workload on Maildirs and on both SQL stores."""
        results, _ = self.run_tiny("sql.py")
        table = self.table(results / "docs" / "sql.csv")
        self.assertEqual(len(table), 9)
        for row in table.values():
            self.assertEqual(len(row), 7)
            self.assertFalse([cell for cell in row if not cell or "failed" in cell])
        self.assertIn("meaningless", (results / "sql-about.txt").read_text())

    def test_parts(self):
        """It measures operations by the number of maildrops, and sessions by several servers."""
        results, _ = self.run_tiny("sql.py", "--part", "growth,servers")
        growth = self.table(results / "docs" / "sql-growth.csv")
        self.assertEqual(list(growth), ["maildrops", "8", "16"])
        servers = self.table(results / "docs" / "sql-servers.csv")
        self.assertEqual(list(servers), ["servers", "1", "3"])
        for table, cells in ((growth, 6), (servers, 4)):
            for row in table.values():
                self.assertEqual(len(row), cells)
                self.assertFalse([cell for cell in row if not cell or "failed" in cell])
        self.assertFalse((results / "sql.csv").exists())
        # There is one if matplotlib is installed.
        for plot in (results / "docs").glob("*.png"):
            self.assertLess(plot.stat().st_size, 60_000)


class StoreTests(SynchronousTestCase):
    """The commands mbox.py and mh.py."""

    def test_mbox(self):
        """It measures every workload on every server."""
        self.check("mbox.py", ("popserv", "dovecot, tuned", "dovecot"))

    def test_mh(self):
        """It measures every workload on both stores."""
        self.check("mh.py", ("MH", "Maildir"))

    def check(self, name, servers):
        """Run a command and check its table."""
        script = CHECKOUT / "benchmarks" / name
        directory = temporary_directory(self)
        done = subprocess.run(
            [sys.executable, script, "--tiny", "--load", program(), "--directory", directory],
            capture_output=True,
            text=True,
            timeout=10 * TIMEOUT,
            check=False,
            env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
        self.assertEqual(len(rows), 1 + 4 * len(servers))
        for _, server, cpu, wall in rows[1:]:
            self.assertIn(server, servers)
            self.assertGreater(float(wall.strip(" |")), 0)
            self.assertGreaterEqual(float(cpu), 0)
        self.assertEqual(list(directory.iterdir()), [])


class ProfileTests(TinyTestCase):
    """The command profiles.py."""

    def test_profile(self):
        """It attributes all CPU time to packages and functions, and counts system calls."""
        results, output = self.run_tiny("profiles.py", "--workload", "login,retr", "--samples", "9")
        packages = self.table(results / "docs" / "profile-packages.csv")
        self.assertEqual(packages["package"], ["login, us", "retr, us"])
        for at in (0, 1):
            shares = re.findall(r"(\d+)%", " ".join(row[at] for row in packages.values()))
            # Each share is rounded.
            self.assertLess(abs(sum(map(int, shares)) - 100), 6)
        functions = self.table(results / "docs" / "profile-functions-retr.csv")
        self.assertTrue(
            [name for name in functions if name.startswith(("``twisted/", "``popserv/"))]
        )
        if "not counted" not in output:
            calls = self.table(results / "docs" / "profile-calls.csv")
            self.assertGreater(float(calls["sendto"][1]), 0.5)
        for name in ("login", "retr"):
            root = ElementTree.parse(results / f"flame-{name}.svg").getroot()
            self.assertTrue(root.findall(".//{*}rect"))

    def test_no_strace(self):
        """Without strace it reports that system calls are not counted, and writes the rest."""
        results, output = self.run_tiny(
            "profiles.py", "--workload", "noop", "--samples", "1", PATH="/nowhere"
        )
        self.assertIn("strace is missing", output)
        self.assertFalse((results / "docs" / "profile-calls.csv").exists())
        self.assertTrue((results / "docs" / "profile-packages.csv").exists())
