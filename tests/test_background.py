"""The tests can run in the background of a script, and under nohup."""

import signal
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

PROGRAM = """\
import signal, subprocess, sys
for number in (signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
import tests
signal.raise_signal(signal.SIGHUP)
signal.raise_signal(signal.SIGINT)
print(*(subprocess.run([sys.executable, "-c", "import os; os.kill(os.getpid(), %d)" % number],
    stderr=subprocess.DEVNULL).returncode for number in (signal.SIGHUP, signal.SIGINT)))
"""


class BackgroundTests(SynchronousTestCase):
    """Signals that were ignored when the tests were started."""

    def test_inherited(self):
        """They do not end the tests, and they end the programs that the tests start."""
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], capture_output=True, check=True, text=True
        )
        self.assertEqual(done.stdout, f"{-signal.SIGHUP} {-signal.SIGINT}\n")
