"""Tests of popserv.doctor.host."""

import ctypes
from resource import RLIM_INFINITY

from twisted.trial.unittest import SynchronousTestCase

from popserv.doctor import host
from popserv.doctor.host import TIME_ERROR, check_clock, check_files, clock_state, hard_limit
from tests.doctor.harness import codes


class ClockTests(SynchronousTestCase):
    """The clock of the machine."""

    def test_state(self):
        """The system tells the state, or not."""
        self.assertIn(clock_state(), {None, *range(TIME_ERROR + 1)})

    def test_unknown(self):
        """Without adjtimex, or if that fails, the state is unknown."""

        class Library:
            """One without the function."""

        self.patch(ctypes, "CDLL", lambda name: Library)
        self.assertIsNone(clock_state())
        Library.adjtimex = lambda timex: -1
        self.assertIsNone(clock_state())

    def test_findings(self):
        """A clock that is not synchronized is a warning."""
        self.assertEqual(codes(check_clock(0)), [])
        self.assertEqual(codes(check_clock(TIME_ERROR)), ["w clock"])
        self.assertEqual(codes(check_clock(None)), ["u clock"])


class FilesTests(SynchronousTestCase):
    """The number of open files."""

    def test_limit(self):
        """The limit is that of the process."""
        self.patch(host, "getrlimit", lambda which: (1, 4096))
        self.assertEqual(hard_limit(), 4096)
        self.patch(host, "getrlimit", lambda which: (1, RLIM_INFINITY))
        self.assertIsNone(hard_limit())

    def test_findings(self):
        """More connections than files is an error; few of both are a warning."""
        self.assertEqual(codes(check_files(1000, 1, None)), [])
        self.assertEqual(codes(check_files(1000, 1, 4100)), [])
        self.assertEqual(codes(check_files(1001, 1, 4100)), ["e open-files"])
        self.assertEqual(codes(check_files(1001, 2, 4100)), [])
        self.assertEqual(codes(check_files(None, 1, 1024)), [])
        self.assertEqual(codes(check_files(None, 1, 256)), ["w open-files"])
        [finding] = check_files(5000, 2, 4100)
        self.assertIn("give at most 2000", finding.remedy)
