"""The corpus, a short run of each target from a seed, and targets with a fault, which is found."""

import os
import random
import re
import signal
import subprocess
import sys
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from itertools import islice, takewhile
from pathlib import Path
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from popserv.auth.oauth.claims import RequiredClaims
from popserv.auth.passwords.checker import SecretsChecker
from popserv.auth.users import extra_fields
from popserv.delivery.lmtp import LMTPServer
from popserv.delivery.outcomes import DELIVERED
from popserv.maildrops import layout
from popserv.maildrops.maildir.listing import size_file
from popserv.maildrops.maildir.unique_ids import dovecot_uidlist, pinned_file
from popserv.maildrops.mbox import parser, stored_form
from popserv.maildrops.memory import MemoryMailbox
from popserv.maildrops.mh import sequences
from popserv.messages.downgrade import downgrader
from popserv.messages.framing import TopFramer
from popserv.migration import pop3_client
from popserv.transports import proxy_header
from tests.fuzz import command, corpus, keeping, libfuzzer, native, reaching, run, totals
from tests.fuzz.cost import BASE, MAX_MIB, calls_of, max_seconds, memory_of, seconds_of
from tests.fuzz.mutation import mutations
from tests.fuzz.run import Failed, Run
from tests.fuzz.stopping import SIGNALS, Stop
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS, lines
from tests.fuzz.turns import Turns
from tests.live.harness import CHECKOUT, until

INPUTS = 130
"""The inputs of each target that follow from a seed."""

MAX_CORPUS = 64 << 10
"""The octets of the whole corpus."""


class CorpusTests(SynchronousTestCase):
    """What is kept in the tree."""

    def test_inputs(self):
        """No input fails, and the calls and the memory of each are bounded by its octets."""
        for target in TARGETS.values():
            for data in corpus.inputs_of(target):
                calls = calls_of(target, data)
                limit = BASE.calls + target.calls_per_octet * len(data)
                self.assertLess(calls, limit, (target.name, data))
                memory = memory_of(target, data)
                limit = BASE.memory + target.memory_per_octet * len(data)
                self.assertLess(memory, limit, (target.name, data))

    def test_directories(self):
        """Each directory is that of a target, and all files together are small."""
        self.assertLessEqual({each.name for each in corpus.KEPT.iterdir()}, {*TARGETS})
        files = [path for path in corpus.KEPT.rglob("*") if path.is_file()]
        self.assertLess(sum(path.stat().st_size for path in files), MAX_CORPUS)

    def test_slow(self):
        """Each target has a slow input of each length: 1 octet, 2 to 3, and so on."""
        for target in TARGETS.values():
            files = (corpus.KEPT / target.name).glob("slow-*")
            lengths = {path.stat().st_size.bit_length() for path in files}
            wanted = {*range(1, target.max_octets.bit_length() + 1)}
            self.assertEqual(wanted - lengths, set(), target.name)


class SeedTests(SynchronousTestCase):
    """A short run of each target."""

    def test_inputs(self):
        """No input fails: in CI the same ones each time, elsewhere others."""
        seed = 1725 if "CI" in os.environ else random.SystemRandom().getrandbits(31)
        print(f"make fuzz FUZZ='--mutate --seed {seed}'")
        for target in TARGETS.values():
            for data in islice(mutations(target, corpus.inputs_of(target), seed), INPUTS):
                try:
                    target.check(data)
                except Exception:
                    print(target.name, data)
                    raise

    def test_same(self):
        """A seed gives the same inputs each time, and another one gives others."""
        target = TARGETS["users"]
        first, again, other = (
            list(islice(mutations(target, target.seeds, seed), 200)) for seed in (1, 1, 2)
        )
        self.assertEqual(first, again)
        self.assertNotEqual(first, other)
        self.assertLessEqual(max(map(len, first)), target.max_octets)


class ReachingTests(SynchronousTestCase):
    """Inputs that reach lines for the first time."""

    def test_changed_further(self):
        """What needs several changes is found if each of them reaches something new."""
        steps = b"abcd"
        target = Target("steps", len, (), words=tuple(steps[at : at + 1] for at in range(4)))

        def number_of_steps(is_guided):
            best = before = 0

            def reached():
                nonlocal before
                new, before = best - before, best
                return new

            guide = (reached,) if is_guided else ()
            for data in islice(mutations(target, [b""], 1725, *guide), 10_000):
                pairs = zip(data, steps, strict=False)
                best = max(best, len([*takewhile(lambda pair: pair[0] == pair[1], pairs)]))
            return best

        self.assertEqual(number_of_steps(True), len(steps))
        self.assertLess(number_of_steps(False), len(steps))

    def test_lines(self):
        """A line of popserv is new once in a run, and again in the next one."""
        if not reaching.is_available():
            self.skipTest("Python 3.12 or a later one is required")
        target = TARGETS["users"]
        for _ in range(2):
            with reaching.new_lines() as reached:
                target.check(b"ann:{PLAIN}x\n")
                self.assertGreater(reached(), 10)
                target.check(b"ann:{PLAIN}x\n")
                self.assertEqual(reached(), 0)
                target.check(b"ann:{PLAIN}x:::::popserv_since=1d\n")
                self.assertGreater(reached(), 0)


def broken(data):
    """Fail with a line that has a colon after a space."""
    if b" " in data and b":" in data[data.index(b" ") :]:
        raise ZeroDivisionError


def slow(data):
    """Compare each octet with each other one."""
    return sum(a == b for a in data * 20 for b in data * 20)


def is_good(target, data):
    """Return whether an input does not fail."""
    try:
        target.check(data)
    except Exception:
        return False
    return True


async def _open_nothing(_self, _message):
    raise OSError("a secret of the disk's")


async def _accept(_self, _credentials, user, _rules):
    return user


async def _remove_nothing(_self, _messages):
    pass


async def _confirm(*_arguments):
    return DELIVERED


FAULTS = (
    ("lines", lines, "number", int),
    ("sessions", MemoryMailbox, "open", _open_nothing),
    ("sessions", MemoryMailbox, "remove", _remove_nothing),
    ("lmtp", LMTPServer, "deliver", _confirm),
    ("sasl", SecretsChecker, "_authenticated", _accept),
    ("names", layout, "_VALUE", re.compile(b".*")),
    ("proxy", proxy_header, "_port", int),
    ("users", extra_fields, "_parse_time", int.from_bytes),
    ("size_file", size_file, "are_sorted", lambda names: True),
    ("mbox", parser, "_blank_line_before", lambda window, start, following: 0),
    ("delivered", stored_form, "_has_from_line", lambda message, start: False),
    ("uidlist", dovecot_uidlist, "_MAX_UID", 1 << 40),
    ("jwt", RequiredClaims, "check", lambda self, claims, now: None),
    ("downgrader", downgrader, "MAX_DEPTH", 0),
    ("framing", TopFramer, "finish", lambda self: b".\r\n"),
    ("sequences", sequences, "_CURRENT", b""),
    ("remote", pop3_client, "_MAX_STATUS_LINE", 1),
    ("unique_ids", pinned_file, "is_base_name", bool),
)
"""For each target something that it calls, and what takes its place."""


class FaultTests(SynchronousTestCase):
    """Targets with a fault."""

    def setUp(self):
        """Make a directory for the files of runs, and record the lines."""
        self.work = Path(self.mktemp()).absolute()
        self.lines = []

    def find(self, check, seeds):
        """Run a target until an input fails; return the message, and the input."""
        target = Target("broken", check, seeds)
        process = Run(target, 600, self.lines.append, self.work)
        with self.assertRaises(Failed) as found:
            for data in mutations(target, target.seeds, 1):
                process.feed(data)
        (path,) = (self.work / "failures" / "broken").iterdir()
        self.assertIn(
            f"again: make fuzz FUZZ='--target broken --input {path}'", str(found.exception)
        )
        return found.exception.__cause__, path.read_bytes()

    def test_exception(self):
        """An exception is found, and the input is written to a file."""
        error, data = self.find(broken, (b"a:b", b"c d"))
        self.assertIsInstance(error, ZeroDivisionError)
        self.assertRaises(ZeroDivisionError, broken, data)

    def test_slow(self):
        """An input that takes more time than its octets may take is found."""
        error, data = self.find(slow, (b"x" * 150,))
        self.assertIsInstance(error, run.TooSlow)
        target = Target("broken", slow, ())
        self.assertGreater(seconds_of(target, data), max_seconds(target, data))

    def test_cost(self):
        """Calls and memory are counted."""
        target = Target("costly", lambda data: [bytes.fromhex("00" * 10) for _ in data], ())
        self.assertGreaterEqual(calls_of(target, b"x" * 1000), 1000)
        self.assertGreater(memory_of(target, b"x" * 1000), 10_000)
        self.assertLess(memory_of(target, b""), 10_000)

    def test_popserv(self):
        """A fault in what a target calls is found, for every target."""
        self.assertEqual({name for name, *_ in FAULTS}, {*TARGETS})
        for name, module, attribute, replacement in FAULTS:
            target = TARGETS[name]
            inputs = islice(mutations(target, corpus.inputs_of(target), 1), 5000)
            self.assertTrue(all(is_good(target, data) for data in target.seeds), name)
            with patch.object(module, attribute, replacement):
                self.assertFalse(all(is_good(target, data) for data in inputs), name)
        # Sessions survive a fault of the store, which is logged.
        self.assertTrue(self.flushLoggedErrors(OSError))

    def test_end(self):
        """A run counts its inputs, and ends after its seconds with the slowest input in a file."""
        self.patch(run, "INTERVAL", -1)
        process = Run(Target("ends", len, ()), -1, self.lines.append, self.work)
        self.assertFalse(process.feed(b"abc"))
        process.finish()
        self.assertRegex(self.lines[0], r"\A +ends +0 s +1 inputs +[0-9]+/s\Z")
        self.assertRegex(self.lines[1], r"1 inputs .*slowest [0-9.]+ ms \(3 octets\)\Z")
        (path,) = (self.work / "slowest" / "ends").iterdir()
        self.assertEqual((path.name, path.read_bytes()), ("slow-02", b"abc"))


class KeepingTests(SynchronousTestCase):
    """The choice of what is kept."""

    def test_keep(self):
        """Of two inputs that reach the same the shorter one is kept, and none that reaches less."""
        work, kept = Path(self.mktemp()), Path(self.mktemp())
        self.patch(keeping, "WORK", work)
        self.patch(keeping, "KEPT", kept)
        target = TARGETS["uidlist"]._replace(seeds=(b"",))
        for data in (b"1 5 9\n1 a\n", b"1 5 9\n1 abcdef\n", b"x"):
            corpus.write(work / "corpus" / "uidlist", data)
        corpus.write(kept / "uidlist", b"1 5 6\n", "slow-")
        corpus.write(work / "slowest" / "uidlist", b"1 5 6\n2 abc\n" * 3)
        corpus.write(kept / "uidlist", b"y", "found-")
        number, reached, everything = keeping.keep(target)
        self.assertEqual(number, 1)
        self.assertEqual(reached, everything)
        names = sorted(path.name[:5] for path in (kept / "uidlist").iterdir())
        self.assertEqual(names[1:], ["found", "slow-", "slow-"])
        self.assertIn(b"1 5 9\n1 a\n", corpus.read(kept / "uidlist"))


class NativeTests(SynchronousTestCase):
    """The functions in C, with the sanitizers."""

    def setUp(self):
        """Skip the test without a compiler."""
        if not native.is_available():
            self.skipTest("gcc and the headers of Python are not installed")
        self.directory = Path(self.mktemp()).absolute()

    def run_process(self, directory):
        """Run the module in a directory for one slice; return the exit code, and the output."""
        process = native.start(directory, 0, 1, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        return process.wait(), *process.communicate()

    def test_functions(self):
        """No text at random makes a function fail, or use memory that is not its own."""
        native.build(self.directory)
        self.assertEqual(self.run_process(self.directory)[0], 0)

    def test_faults(self):
        """A wrong result is found, and a wrong access to memory."""
        source = (CHECKOUT / "popserv" / "_speedups.c").read_text()
        for right, wrong, output in (
            ("'a' + 'A'", "'a' + 'B'", b"split_line fails with b'"),
            ("octets = 2 * length + more;", "octets = length + more;", b"heap-buffer-overflow"),
        ):
            self.assertEqual(source.count(right), 1)
            code = self.directory / output.decode()[:5]
            code.mkdir(parents=True)
            (code / "_speedups.c").write_text(source.replace(right, wrong))
            native.build(code, code)
            returned, *outputs = self.run_process(code)
            self.assertNotEqual(returned, 0)
            self.assertIn(output, b"".join(outputs))


class CommandTests(SynchronousTestCase):
    """``make fuzz``."""

    def setUp(self):
        """Leave out the functions in C, which must be compiled."""
        self.patch(native, "is_available", lambda: False)

    def test_input(self):
        """One input can be run again."""
        path = corpus.write(Path(self.mktemp()), b"ann:x\n")
        self.assertEqual(command.main(["--target", "users", "--input", str(path)]), 0)
        with self.assertRaises(SystemExit):
            command.parse(["--input", str(path)])

    def test_guided(self):
        """A run with atheris finds inputs that reach more than the corpus, until it is stopped."""
        if not libfuzzer.is_available():
            self.skipTest("atheris is not installed")
        directory = Path(self.mktemp())
        directory.mkdir()
        before = len({*corpus.inputs_of(TARGETS["users"])})
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz", "--target", "users", "--seconds", "600"],
            cwd=directory,
            env={**os.environ, "PYTHONPATH": os.fspath(CHECKOUT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.addCleanup(process.kill)
        found = directory / "build/fuzz/corpus/users"
        # The empty input, which comes first of all, may be a new one as well.
        until(lambda: len(corpus.names(found)) > before + 2, "new inputs")
        process.terminate()
        output, errors = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 0, errors)
        self.assertRegex(output, rb"\Aseed [0-9]+, guided by coverage\n(?s:.*) users .* slowest ")
        (inputs,) = re.findall(rb"\n +all +([0-9,]+) +\1\n\Z", output)
        self.assertGreater(int(inputs.replace(b",", b"")), before)
        self.assertGreater(len(corpus.names(found)), before)

    def test_mutate(self):
        """A run without atheris ends after its seconds, or with the input that fails."""
        self.patch(corpus, "WORK", Path(self.mktemp()))
        targets = {
            "bad": Target("bad", broken, (b" :",)),
            "good": Target("good", len, (b"a",)),
        }
        self.patch(command, "TARGETS", targets)
        self.assertEqual(self.run_command("--target", "good")[0], 0)
        code, output = self.run_command()
        self.assertEqual(code, 1)
        self.assertRegex(
            output,
            r"(?s)\nZeroDivisionError\n.*\nagain: .* good .* slowest .*"
            r"\n +target +inputs +of all runs\n +bad +1 +1\n +good +1 +2\n +all +2 +3\n"
            r"failed: bad\n\Z",
        )

    def test_memory(self):
        """An input that needs very much memory fails."""
        self.patch(corpus, "WORK", Path(self.mktemp()))
        greedy = Target("greedy", lambda data: bytes(MAX_MIB << 21), (b"x",))
        self.patch(command, "TARGETS", {"greedy": greedy})
        code, output = self.run_command()
        self.assertEqual(code, 1)
        self.assertRegex(output, r"\nMemoryError\n(?s:.*)\nfailed: greedy\n\Z")

    def test_inputs(self):
        """With --inputs the targets take turns, longer ones if they find something new."""
        work = Path(self.mktemp())
        self.patch(corpus, "WORK", work)
        turns = []

        def engine(name, seconds, seed, stop):
            turns.append((name, seconds, seed))
            if name == "finds":
                corpus.write(work / "corpus" / "finds", b"%d" % seed)
            totals.add(work, name, 10)
            return name != "fails"

        engines = {name: partial(engine, name) for name in ("finds", "fails", "idle")}
        with Stop() as stop:
            failed = Turns(engines, 4, 45).run(7, stop)
        self.assertEqual(failed, ["fails"])
        first = [("finds", 4, 7), ("fails", 4, 7), ("idle", 4, 7)]
        self.assertEqual(turns, [*first, ("finds", 8, 8), ("idle", 4, 8)])

    def test_stop(self):
        """SIGTERM and SIGINT end a run with its counts, and no further target has a turn."""
        self.patch(corpus, "WORK", Path(self.mktemp()))
        for number in SIGNALS:
            stops = Target("stops", lambda data, number=number: signal.raise_signal(number), ())
            self.patch(command, "TARGETS", {"stops": stops, "never": Target("never", broken, ())})
            code, output = self.run_command("--seconds", "600", "--inputs", "9")
            self.assertEqual(code, 0)
            self.assertRegex(output, r" stops +1 +[12]\n +never +0 +0\n")
        with Stop() as stop:
            signal.raise_signal(signal.SIGTERM)
            called = []
            stop.call(lambda: called.append(True))
        self.assertEqual(called, [True])

    def run_command(self, *options):
        """Run the command for no time; return its exit code and its output."""
        output = StringIO()
        with redirect_stdout(output):
            code = command.main(["--mutate", "--seconds", "0", *options])
        return code, output.getvalue()
