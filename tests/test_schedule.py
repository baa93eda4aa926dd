"""``python -m tests`` divides the tests among processes, and sums up what they report."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.live.harness import CHECKOUT, temporary_directory, until
from tests.schedule import all_parts

HEAD = "import os, time\nfrom twisted.trial.unittest import TestCase\nclass Tests(TestCase):\n"

SAMPLES = {
    "good": "test_one = test_two = lambda self: None\n",
    "bad": "test_one = lambda self: None\n test_two = lambda self: self.fail('wrong')\n",
    "skipped": "skip = 'not here'\n test_one = lambda self: None\n",
    "killed": "test_one = lambda self: os.kill(os.getpid(), 9)\n",
    "gone": "test_one = lambda self: os._exit(0)\n",
    "broken": "1 +\n",
    "empty": "pass\n",
    "leaving": "test_one = lambda self: os.system('true &')\n",
    "waiting": "test_one = lambda self: (open('../started', 'w').close(), time.sleep(1000))\n",
}

RUN = """\
import ctypes, sys
from tests.schedule import run_parts
if sys.platform == "linux":
    # It is the parent of what its descendants leave behind (PR_SET_CHILD_SUBREAPER).
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
command = [sys.executable, "-m", "tests"]
sys.exit(0 if run_parts(command, sys.argv[2:], int(sys.argv[1])) else 1)
"""


class ScheduleTests(SynchronousTestCase):
    """Sample modules, in a directory of their own."""

    def setUp(self):
        """Write the modules."""
        self.directory = temporary_directory(self)
        for name, code in SAMPLES.items():
            (self.directory / f"{name}.py").write_text(f"{HEAD} {code}")

        self.environment = {
            **os.environ,
            "PYTHONPATH": f"{self.directory}{os.pathsep}{CHECKOUT}",
        }

    def start(self, *names, processes=2):
        """Start a process that divides the modules."""
        return subprocess.Popen(
            [sys.executable, "-c", RUN, str(processes), *names],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.directory,
            env=self.environment,
        )

    def run_tests(self, name):
        """Run the tests of one name; return the completed process."""
        command = [sys.executable, "-m", "tests", name]
        return subprocess.run(
            command, capture_output=True, check=False, cwd=self.directory, env=self.environment
        )

    def run_parts(self, *names, **options):
        """Divide the modules; return the exit code and the lines of the output."""
        with self.start(*names, **options) as process:
            output, errors = process.communicate()
        self.assertEqual(errors, "")
        return process.returncode, output.splitlines()

    def test_passed(self):
        """The last line has the sums, and no other line looks like it."""
        code, lines = self.run_parts("good", "skipped", "leaving")
        self.assertEqual(code, 0)
        self.assertEqual(lines[-1], "3 passed, 0 failed, 1 skipped")
        self.assertEqual([line for line in lines if line[:1].isdigit()], lines[-1:])
        self.assertRegex("\n".join(lines), "\ngood: 2 passed, 0 failed, 0 skipped, exit code 0, ")

    def test_all_skipped(self):
        """If every test is skipped, the exit code is not 0: nothing has shown that all is well."""
        code, lines = self.run_parts("skipped")
        self.assertEqual((code, lines[-1]), (1, "0 passed, 0 failed, 1 skipped"))
        for name, expected in (("skipped", 5), ("good", 0), ("bad", 1)):
            done = self.run_tests(name)
            self.assertEqual(done.returncode, expected, done)
            self.assertEqual(b"every test was skipped" in done.stderr, name == "skipped", done)

    def test_failed(self):
        """A failed test fails the whole, and its module is named at the end."""
        code, lines = self.run_parts("bad", "good", processes=1)
        self.assertEqual(code, 1)
        self.assertEqual(lines[-2:], ["failed: bad", "3 passed, 1 failed, 0 skipped"])
        # Each output is in one piece.
        ends = [line.partition(":")[0] for line in lines if "exit code" in line]
        self.assertEqual(ends, ["bad", "good"])
        # Why it has failed is said in its output, and again just before the last lines.
        again = lines[lines.index("failures of bad, again:") :]
        self.assertEqual([again[1], again[-3]], ["[FAIL]", "bad.Tests.test_two"])
        self.assertIn("twisted.trial.unittest.FailTest: wrong", again)

    def test_died(self):
        """A process that does not end as it should is a failure, whatever its exit code."""
        for name, exit_code in (("killed", -9), ("gone", 0), ("broken", 1), ("empty", 1)):
            code, lines = self.run_parts(name, "good")
            self.assertEqual(code, 1, name)
            self.assertEqual(lines[-2:], [f"failed: {name}", "2 passed, 1 failed, 0 skipped"])
            said = f"\n{name}: 0 passed, 1 failed, 0 skipped, exit code {exit_code}, "
            self.assertIn(said, "\n".join(lines))

    def test_interrupted(self):
        """SIGINT ends all processes, and starts no further one."""
        with self.start("waiting", "good", processes=1) as process:
            until((self.directory / "started").exists, "the test")
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate()
        self.assertNotEqual(process.returncode, 0)
        self.assertNotIn("good", output)
        self.assertEqual(self.processes(), [])

    def processes(self):
        """Return the processes that work in the directory."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cwd"):
            try:
                if path.readlink().is_relative_to(self.directory):
                    found.append(path)
            except OSError:
                continue
        return found

    def test_all(self):
        """Each module with tests belongs to one part."""
        root = CHECKOUT / "tests"
        modules = {
            ".".join(path.relative_to(CHECKOUT).with_suffix("").parts): path
            for path in root.rglob("test_*.py")
        }
        parts = all_parts()
        for module in modules:
            owners = [part for part in parts if f"{module}.".startswith(f"{part}.")]
            self.assertEqual(len(owners), 1, module)
        for part in parts:
            self.assertTrue(any(f"{module}.".startswith(f"{part}.") for module in modules), part)

    def test_fail(self):
        """No test has a method fail: assertions call that of trial, and could not fail."""
        methods = re.compile(r"^    (?:async )?def fail\(self", re.MULTILINE)
        for path in (CHECKOUT / "tests").rglob("*.py"):
            self.assertIsNone(methods.search(path.read_text("utf-8")), path)
