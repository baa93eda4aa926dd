"""What systemd learns of ``twistd pop3``."""

import os
import signal
import socket

from twisted.trial.unittest import TestCase

from tests.live.harness import TIMEOUT, Server, temporary_directory


class NotifyTests(TestCase):
    """A server that a service manager has started."""

    def start(self, address, *options):
        """Start a server; return it, and a function that returns the next message."""
        notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(notified.close)
        notified.bind(address)
        notified.settimeout(TIMEOUT)
        # Messages of other processes would be ignored by systemd, too (NotifyAccess=main).
        notified.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)

        def receive():
            data, ancillary, _, _ = notified.recvmsg(1000, socket.CMSG_SPACE(12))
            pid = int.from_bytes(ancillary[0][2][:4], "little")
            self.assertEqual(pid, server.process.pid)
            return data.decode().split("\n")

        server = Server(
            *options,
            environment={
                "NOTIFY_SOCKET": address.replace("\0", "@"),
                "WATCHDOG_USEC": "400000",
            },
        )
        self.addCleanup(server.stop)
        return server, receive

    def test_states(self):
        """A server tells systemd when it is ready, reads files again, is alive, and stops."""
        directory = temporary_directory(self)
        for address, options, status in (
            (f"{directory}/notify", (), "serving"),
            (f"\0{directory}", ("--workers", "2", "--drain", "5"), "serving, 2 workers"),
        ):
            server, receive = self.start(address, *options)
            self.assertEqual(receive(), ["READY=1", f"STATUS={status}"])
            self.assertEqual(receive(), ["WATCHDOG=1"])
            server.connect().close()
            self.assertEqual(receive(), ["WATCHDOG=1"])
            os.kill(server.process.pid, signal.SIGHUP)
            while (message := receive()) == ["WATCHDOG=1"]:
                pass
            self.assertEqual(message[0], "RELOADING=1")
            self.assertRegex(message[1], r"^MONOTONIC_USEC=\d+$")
            self.assertEqual(receive(), ["READY=1", f"STATUS={status}"])
            server.process.terminate()
            while (message := receive()) == ["WATCHDOG=1"]:
                pass
            self.assertEqual(message[0], "STOPPING=1")
            extension = ["EXTEND_TIMEOUT_USEC=35000000"] if "--drain" in options else []
            self.assertEqual(message[2:], extension)
            server.stop()

    def test_no_ports(self):
        """A server that cannot start is never ready."""
        taken = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(taken.close)
        directory = temporary_directory(self)
        endpoint = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
            notified.bind(f"{directory}/notify")
            notified.setblocking(False)
            environment = {"NOTIFY_SOCKET": f"{directory}/notify"}
            error = self.assertRaises(
                AssertionError, Server, "--listen", endpoint, environment=environment
            )
            self.assertIn("Couldn't listen on", str(error))
            self.assertRaises(BlockingIOError, notified.recv, 1)
