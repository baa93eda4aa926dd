"""Tests of popserv.listening.systemd; tests.live.test_listening passes real sockets."""

import os
from unittest.mock import mock_open, patch

from twisted.plugins.twisted_core import systemdEndpointParser
from twisted.python.systemd import ListenFDs
from twisted.trial.unittest import SynchronousTestCase

from popserv.listening.systemd import (
    accept_unnamed_sockets,
    passed_sockets,
    systemd_variables,
)

PID = f"LISTEN_PID={os.getpid()}"


class SystemdTests(SynchronousTestCase):
    """The environment with which the process was started."""

    def setUp(self):
        """Let Twisted have found no sockets."""
        self.patch(systemdEndpointParser, "_sddaemon", ListenFDs([]))

    def started_with(self, *variables):
        """Return a patch for a process that was started with these variables."""
        environ = "\0".join(["HOME=/", *variables, ""]).encode()
        return patch("popserv.listening.systemd.open", mock_open(read_data=environ), create=True)

    def test_names(self):
        """Sockets without names, or with another number of names, get names as in systemd."""
        for variables, names in [
            (("LISTEN_FDNAMES=a:b",), "a:b"),
            ((), "unknown:unknown"),
            (("LISTEN_FDNAMES=",), "unknown:unknown"),
            (("LISTEN_FDNAMES=:",), "unknown:unknown"),
            (("LISTEN_FDNAMES=a:",), "a:unknown"),
            (("LISTEN_FDNAMES=a",), "unknown:unknown"),
            (("LISTEN_FDNAMES=a:b:c",), "unknown:unknown"),
        ]:
            with self.started_with(PID, "LISTEN_FDS=2", *variables):
                self.assertEqual(systemd_variables()["LISTEN_FDNAMES"], names)
                accept_unnamed_sockets()
            sockets = systemdEndpointParser._sddaemon
            self.assertEqual(sockets.inheritedDescriptors(), [3, 4])
            self.assertEqual({*sockets.inheritedNamedDescriptors()}, {*names.split(":")})
            systemdEndpointParser._sddaemon = ListenFDs([])

    def test_kept(self):
        """What Twisted has found is used as it is."""
        found = systemdEndpointParser._sddaemon = ListenFDs([3], ["a"])
        accept_unnamed_sockets()
        self.assertIs(systemdEndpointParser._sddaemon, found)

    def test_none(self):
        """Variables of another process, without a number or without /proc are no sockets."""
        for variables in [
            (),
            ("LISTEN_PID=1", "LISTEN_FDS=2"),
            (PID,),
            (PID, "LISTEN_FDS="),
            (PID, "LISTEN_FDS=0"),
            (PID, "LISTEN_FDS=-1"),
            (PID, "LISTEN_FDS=many"),
        ]:
            with self.started_with(*variables):
                self.assert_none()
        with patch("popserv.listening.systemd.open", side_effect=FileNotFoundError, create=True):
            self.assert_none()

    def assert_none(self):
        """Check that no sockets are found."""
        self.assertEqual(systemd_variables(), {})
        accept_unnamed_sockets()
        self.assertEqual(systemdEndpointParser._sddaemon.inheritedDescriptors(), [])
        self.assertEqual(passed_sockets(), "systemd has passed no sockets to this process")

    def test_words(self):
        """An error message lists the sockets that were passed."""
        with self.started_with(PID, "LISTEN_FDS=2", "LISTEN_FDNAMES=pop3:pop3s"):
            self.assertEqual(
                passed_sockets(),
                "systemd has passed these sockets: index=0 (name=pop3), index=1 (name=pop3s)",
            )
