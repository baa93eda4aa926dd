"""Divides all tests among several processes, each of which runs one package or module of them.

Most tests of tests.live wait for other programs, so each of their modules is a part of its own.
Trial itself can divide tests (``--jobs``), but one by one, so that each process would start the
servers that the tests of a class or a module share.
"""

import os
import re
import signal
import subprocess
import time
from collections import deque
from pathlib import Path
from tempfile import TemporaryDirectory

SHOWN_AGAIN, WIDTH = 14, 240
"""How many of the last lines of each failed test are printed once more at the end, and how wide."""

COUNTS = re.compile(r"^(\d+) passed, (\d+) failed, (\d+) skipped\n", re.MULTILINE)
"""The summary of :mod:`tests.__main__`."""

ALL_SKIPPED = 5
"""The exit code of a process whose tests were all skipped, as in unittest and pytest."""

LONGEST = (
    "tests.maildrops",
    "tests.live.test_packaging",
    "tests.live.test_image",
    "tests.soak",
    "tests.faults",
    "tests.live.test_debian",
    "tests.live.test_chaos",
    "tests.live.test_failures",
    "tests.live.test_secure_clients",
    "tests.live.test_benchmarks",
    "tests.live.test_dovecot_auth",
    "tests.live.test_session_command",
    "tests.live.test_faulty_checkers",
    "tests.auth",
    "tests.live.test_workers",
    "tests.live.test_split_user_agent",
    "tests.live.test_metrics",
    "tests.live.test_doctor",
    "tests.live.test_control",
    "tests.live.test_sql",
    "tests.live.test_mbox",
    "tests.live.test_twistd",
    "tests.live.test_tls",
    "tests.live.test_bounds",
    "tests.messages",
    "tests.endurance",
)
"""The parts that take the longest, which start first so that none of them runs alone at the end."""


def print_counts(counts):
    """Print the numbers of passed, failed and skipped tests."""
    print("{} passed, {} failed, {} skipped".format(*counts), flush=True)


def all_parts():
    """Return the names of all packages and modules with tests, in the order of their start."""
    here = Path(__file__).parent
    parts = {
        f"tests.{path.stem}"
        for path in here.iterdir()
        if path.name.startswith("test_") or (path / "__init__.py").exists()
    }
    parts |= {f"tests.live.{path.stem}" for path in here.glob("live/test_*.py")}
    parts -= {"tests.live", *LONGEST}
    return [*LONGEST, *sorted(parts)]


def failed_tests(text):
    """Yield the last lines of what trial has printed about each failed test.

    If it has printed no such summary, they are the last lines of all.
    """
    blocks = re.split(r"^={20,}$", text, flags=re.MULTILINE)
    for block in blocks[1:] or blocks:
        reason = re.split(r"^-{20,}$", block, flags=re.MULTILINE)[0] if blocks[1:] else block
        for line in reason.strip().splitlines()[-SHOWN_AGAIN:]:
            yield line if len(line) <= WIDTH else f"{line[:WIDTH]} ..."


class Part:
    """A process that runs the tests of one name, and writes to a file in a directory."""

    def __init__(self, command, name, directory):
        self.name = name
        self._start = time.monotonic()
        # Not a pipe: a program that a test has left behind would keep it open.
        self._output = Path(directory, name)
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, name],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def end(self, status):
        """Print the output of the process, which has ended with this wait status.

        Return the numbers of passed, failed and skipped tests, and what was printed.  A process
        that has failed without a failed test, or was killed, counts as a failed test.
        """
        code = self.process.returncode = os.waitstatus_to_exitcode(status)
        text = self._output.read_text(errors="replace")
        sums = COUNTS.findall(text)
        passed, failed, skipped = map(int, sums[-1] if sums else (0, 0, 0))
        if code not in (0, ALL_SKIPPED) or not sums:
            failed = max(failed, 1)
        text = COUNTS.sub("", text).rstrip()
        print(text)
        seconds = time.monotonic() - self._start
        counted = f"{passed} passed, {failed} failed, {skipped} skipped"
        print(f"{self.name}: {counted}, exit code {code}, {seconds:.0f} seconds\n", flush=True)
        return (passed, failed, skipped), text


def run_parts(command, names, processes):
    """Run a command with each of the names, in so many processes at a time.

    Print the output of each when it has ended, then the failures again, and the sums last.  Return
    whether none failed, and any passed.
    """
    waiting, running, failures, total = deque(names), {}, {}, (0, 0, 0)
    with TemporaryDirectory() as directory:
        try:
            while waiting or running:
                while waiting and len(running) < processes:
                    part = Part(command, waiting.popleft(), directory)
                    running[part.process.pid] = part
                pid, status = os.wait()
                if pid not in running:
                    # As process 1 of a container, this one also waits for what tests left behind.
                    continue
                part = running.pop(pid)
                counts, text = part.end(status)
                total = [a + b for a, b in zip(total, counts, strict=True)]
                if counts[1]:
                    failures[part.name] = text
        finally:
            # After Ctrl-C: they stop their servers.
            for part in running.values():
                part.process.send_signal(signal.SIGINT)
            for part in running.values():
                part.process.wait()
    for name, text in failures.items():
        print(f"failures of {name}, again:", *failed_tests(text), sep="\n")
    if failures:
        print("failed:", *failures)
    print_counts(total)
    return not failures and total[0] > 0
