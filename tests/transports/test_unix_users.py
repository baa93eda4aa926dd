"""The user at the other end of a UNIX socket."""

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
"""A uid that no user has."""


class PeerUserTests(TestCase):
    """peer_user."""

    def setUp(self):
        """Connect a socket of this process to another one."""
        server, client = socket.socketpair()
        self.addCleanup(server.close)
        self.addCleanup(client.close)
        self.transport = SimpleNamespace(getHandle=lambda: server)

    async def test_name(self):
        """The user is that of the process that connected."""
        name = await peer_user(self.transport)
        self.assertEqual(name.decode(), pwd.getpwuid(os.geteuid()).pw_name)

    async def test_other_namespace(self):
        """A user of another namespace, whose uid is the overflow uid, is rejected."""
        self.patch(unix_users, "_peer_uid", lambda transport: 65534)
        self.addCleanup(unix_users._overflow_uid.cache_clear)
        for uid_map, is_rejected in (
            ("         0          0 4294967295\n", False),
            ("0 1000 1\n1 100000 65536\n", True),
            (None, False),
        ):
            files = {"/proc/self/uid_map": uid_map, "/proc/sys/kernel/overflowuid": "65534\n"}

            def read(path, encoding, files=files):
                if files[path] is None:
                    raise FileNotFoundError(path)
                return io.StringIO(files[path])

            unix_users._overflow_uid.cache_clear()
            with patch.object(unix_users, "open", read, create=True):
                self.assertEqual(unix_users._overflow_uid(), 65534 if is_rejected else None)
            if is_rejected:
                with self.assertRaises(NoUser) as caught:
                    await peer_user(self.transport)
                self.assertIn("stands for all", str(caught.exception.__cause__))

    async def test_no_name(self):
        """A uid without a name is rejected; the log contains the uid."""
        self.patch(unix_users, "_peer_uid", lambda transport: UNKNOWN_UID)
        with self.assertRaises(NoUser) as caught:
            await peer_user(self.transport)
        self.assertEqual(str(caught.exception.__cause__), f"uid {UNKNOWN_UID} has no name")
