"""Tests of popserv.runtime.capabilities."""

import ctypes
import errno
import os
from array import array
from pathlib import Path
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from popserv.runtime import capabilities
from popserv.runtime.capabilities import (
    OVERRIDING,
    SWITCHING,
    effective,
    keep_only,
    keep_when_user_changes,
    make_effective,
)
from tests.runtime.harness import CAP_DAC_OVERRIDE, CAP_SETUID, drop_capability, in_thread

_GET_KEEPCAPS = 7
CAP_FSETID, CAP_SETGID = 4, 6


def in_kernel(name):
    """Return a set of capabilities of this thread according to the kernel."""
    for line in Path("/proc/thread-self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1], 16)
    raise KeyError(name)


class CapabilityTests(SynchronousTestCase):
    """The kernel and this module agree about the capabilities of a thread."""

    def setUp(self):
        """Skip the tests without capabilities."""
        if os.geteuid():
            self.skipTest("only root has capabilities")

    def test_effective(self):
        """The effective capabilities are those that the kernel reports."""

        def find():
            drop_capability(CAP_DAC_OVERRIDE)
            return effective(), in_kernel("CapEff")

        found, expected = in_thread(find)
        self.assertEqual(found, expected)
        self.assertFalse(found & 1 << CAP_DAC_OVERRIDE)

    def test_numbers(self):
        """The capabilities are those of linux/capability.h, of which there are more than 32."""
        self.assertEqual(SWITCHING, 1 << CAP_SETGID | 1 << CAP_SETUID)
        self.assertEqual(OVERRIDING, sum(1 << number for number in range(CAP_FSETID + 1)))
        sets = array("I", [1, 2, 4, 8, 16, 32])
        with mock.patch.object(capabilities, "_get", return_value=sets):
            self.assertEqual(effective(), 8 << 32 | 1)

    def test_make_effective(self):
        """Those that are effective are named; all others can be made effective again."""

        def change():
            permitted = in_kernel("CapPrm")
            make_effective(SWITCHING)
            self.assertEqual(in_kernel("CapEff"), SWITCHING)
            self.assertEqual(in_kernel("CapPrm"), permitted)

        in_thread(change)

    def test_keep_only(self):
        """All others are given up, by this thread and by the programs that it starts."""
        names = ("CapInh", "CapPrm", "CapEff", "CapAmb")

        def change(for_programs):
            keep_only(SWITCHING, for_programs=for_programs)
            return [in_kernel(name) for name in names]

        self.assertEqual(in_thread(change, False), [0, SWITCHING, SWITCHING, 0])
        self.assertEqual(in_thread(change, True), [SWITCHING] * 4)

    def test_missing(self):
        """Those that a thread does not have are an error, which changes nothing."""

        def change():
            keep_only(1 << CAP_DAC_OVERRIDE, for_programs=False)
            for function in (make_effective, lambda each: keep_only(each, for_programs=True)):
                error = self.assertRaises(OSError, function, 1 << CAP_SETUID)
                self.assertEqual(error.errno, errno.EPERM)
            self.assertEqual(effective(), 1 << CAP_DAC_OVERRIDE)

        in_thread(change)

    def test_keep_when_user_changes(self):
        """The kernel keeps what may be made effective when the user changes."""

        def change():
            keep_when_user_changes()
            return ctypes.CDLL(None).prctl(_GET_KEEPCAPS, 0, 0, 0, 0)

        self.assertEqual(in_thread(change), 1)

    def test_no_capget(self):
        """A kernel that does not tell the capabilities is an error."""
        with mock.patch.object(capabilities, "_HEADER", bytes(8)):
            self.assertRaises(OSError, effective)
