"""processes: which processes exist."""

import os
import subprocess
import sys
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from popserv.runtime.processes import has_ended
from tests.maildrops.maildir.harness import failing


class HasEndedTests(SynchronousTestCase):
    """Locks name processes that have ended, or not."""

    def test_ended(self):
        """A process that was waited for has ended."""
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        self.assertIs(has_ended(b"%d" % ended.pid, own_ended=False), True)
        for error in (PermissionError(1, "not permitted"), OSError(22, "invalid")):
            with failing(os, "kill", error):
                self.assertIs(has_ended(b"%d" % ended.pid, own_ended=False), False)

    def test_running(self):
        """A process that exists has not, whoever it belongs to; it gets no signal."""
        with mock.patch.object(os, "kill") as kill:
            self.assertIs(has_ended(b"%d" % os.getppid(), own_ended=True), False)
        kill.assert_called_once_with(os.getppid(), 0)
        self.assertIs(has_ended(b"%d" % os.getppid(), own_ended=True), False)
        self.assertIs(has_ended(b"1", own_ended=True), False)

    def test_own(self):
        """For the number of this process the caller knows the answer."""
        for answer in (True, False):
            self.assertIs(has_ended(b"%d" % os.getpid(), own_ended=answer), answer)

    def test_no_number(self):
        """What is no process number says nothing."""
        ended = b"%d" % ((1 << 31) - 1)
        self.assertIs(has_ended(ended, own_ended=True), True)
        for text in (b"", b"x", b"0", b"-" + ended, b"%d" % (1 << 31), b"9" * 400, ended + b"x"):
            self.assertIs(has_ended(text, own_ended=True), False)
