"""Who is at the other end of a UNIX socket."""

import io
import os
import pwd
import socket
from types import SimpleNamespace
from unittest.mock import patch

from twisted.trial.unittest import TestCase

from popserv.errors import NoUser
from popserv.transports import unix_users
from popserv.transports.unix_users import peer_user

UNKNOWN_UID = next(
    uid for uid in range(54321, 1 << 16) if uid not in {e.pw_uid for e in pwd.getpwall()}
)
"""A number that is no user's."""


class PeerTests(TestCase):
    """The user who made the connection, by the name that the system has."""

    def setUp(self):
        """Connect to ourselves."""
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(theirs.close)
        self.transport = SimpleNamespace(getHandle=lambda: ours)

    async def test_name(self):
        """It is this process's own."""
        name = await peer_user(self.transport)
        self.assertEqual(name.decode(), pwd.getpwuid(os.geteuid()).pw_name)

    async def test_other_namespace(self):
        """Who has no number in this namespace of users has the kernel's, which is no name."""
        self.patch(unix_users, "_peer_uid", lambda transport: 65534)
        self.addCleanup(unix_users._overflow_uid.cache_clear)
        for known, refused in (
            ("         0          0 4294967295\n", False),
            ("0 1000 1\n1 100000 65536\n", True),
            (None, False),
        ):
            files = {"/proc/self/uid_map": known, "/proc/sys/kernel/overflowuid": "65534\n"}

            def read(path, encoding, files=files):
                if files[path] is None:
                    raise FileNotFoundError(path)
                return io.StringIO(files[path])

            unix_users._overflow_uid.cache_clear()
            with patch.object(unix_users, "open", read, create=True):
                self.assertEqual(unix_users._overflow_uid(), 65534 if refused else None)
            if refused:
                with self.assertRaises(NoUser) as caught:
                    await peer_user(self.transport)
                self.assertIn("stands for all", str(caught.exception.__cause__))

    async def test_no_name(self):
        """A number without a name is refused; the log has the number."""
        self.patch(unix_users, "_peer_uid", lambda transport: UNKNOWN_UID)
        with self.assertRaises(NoUser) as caught:
            await peer_user(self.transport)
        self.assertEqual(str(caught.exception.__cause__), f"uid {UNKNOWN_UID} has no name")
