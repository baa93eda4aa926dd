"""Tests of popserv.wiring.privileges; tests.live.test_owners tests it with real privileges."""

import errno
import os
from unittest.mock import patch

from twisted.application.service import Service
from twisted.trial.unittest import SynchronousTestCase

from popserv.listening.listeners import CannotStart
from popserv.runtime.capabilities import SWITCHING
from popserv.wiring import privileges
from popserv.wiring.privileges import OwnersService


class OwnersServiceTests(SynchronousTestCase):
    """What is kept of root's privileges."""

    def setUp(self):
        """Record the calls in order, instead of giving up privileges."""
        self.calls = []
        self.problem = ""
        self.patch(privileges, "IS_SUPPORTED", True)
        self.patch(privileges, "keep_when_user_changes", lambda: self.calls.append("keep"))
        self.patch(privileges, "keep_only", self.keep_only)
        self.patch(privileges, "obstacle", lambda: self.problem)
        self.inner = Service()
        self.inner.startService = lambda: self.calls.append("start")

    def keep_only(self, capabilities, *, for_programs):
        """Record a call."""
        self.calls.append((capabilities, for_programs))

    def start(self, uid, *, has_workers=False):
        """Start the service as a user; return the calls."""
        service = OwnersService(self.inner, has_workers=has_workers)
        service.privilegedStartService()
        with patch.object(os, "geteuid", return_value=uid):
            service.startService()
        return self.calls

    def test_user(self):
        """A process that is not root keeps two capabilities, before it starts anything."""
        self.assertEqual(self.start(5), ["keep", (SWITCHING, False), "start"])

    def test_workers(self):
        """Workers are started with them."""
        self.assertEqual(self.start(5, has_workers=True), ["keep", (SWITCHING, True), "start"])

    def test_root(self):
        """Root stays as it is."""
        self.assertEqual(self.start(0), ["keep", "start"])

    def test_impossible(self):
        """A process that cannot become other users does not start, and says why."""
        self.problem = "no capabilities"
        error = self.assertRaises(CannotStart, self.start, 5)
        self.assertIn(
            "--as-owners: maildrops cannot be accessed as other users: no cap", str(error)
        )
        refusal = OSError(errno.EPERM, "not permitted")
        with patch.object(privileges, "keep_only", side_effect=refusal):
            error = self.assertRaises(CannotStart, self.start, 5)
        self.assertIn("capabilities cannot be changed: not permitted; start as root", str(error))
        self.assertNotIn("start", self.calls)

    def test_other_system(self):
        """A system without capabilities is asked for nothing."""
        self.patch(privileges, "IS_SUPPORTED", False)
        self.problem = "this system has none"
        self.assertRaises(CannotStart, self.start, 5)
        self.assertEqual(self.calls, [])
