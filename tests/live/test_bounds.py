"""Memory is bounded by what is read, whatever is sent and asked for."""

import os
import socket
import time

from tests.live.harness import ServerTestCase, until

LIMIT = 10 << 20
"""Octets that any one client may cost beyond its maildrop's snapshot."""


def read_slowly(connection, octets, server):
    """Read so much in sips; return the most memory that the server had meanwhile."""
    most = server.memory
    for _ in range(0, octets, 1 << 18):
        connection.file.read(1 << 18)
        time.sleep(0.005)
        most = max(most, server.memory)
    return most


class BoundsTests(ServerTestCase):
    """A server of millions of octets needs few of them at a time."""

    def test_huge_message(self):
        """RETR of a message of 200 MB to a client that sips."""
        connection, maildir = self.login()
        connection.close()
        octets = 200 << 20
        with (maildir / "new" / "1.huge").open("wb") as file:
            line = b"." + b"x" * 1022 + b"\n"
            for _ in range(octets >> 20):
                file.write(line * 1024)
        connection = self.server.login(maildir.name)
        before = self.server.memory
        sent = connection.ask(b"RETR 1")
        self.assertEqual(sent, b"+OK %d octets" % (octets + (octets >> 10)))
        self.assertLess(read_slowly(connection, 50 << 20, self.server) - before, LIMIT)
        left = octets + 2 * (octets >> 10) + 3 - (50 << 20)
        while left > (1 << 20):
            left -= len(connection.file.read(1 << 20))
        self.assertLess(self.server.memory - before, LIMIT)
        self.assertTrue(connection.file.read(left).endswith(b"\r\n.\r\n"))
        connection.close()

    def test_many_messages(self):
        """A snapshot of 100,000 messages, and UIDL of them to a client that sips."""
        connection, maildir = self.login()
        connection.close()
        count = 100_000
        new = original = maildir / "new"
        for number in range(count):
            name = new / f"{1_700_000_000 + number}.M1P1.somewhere.example.org"
            if number % 50_000:
                # Links to one file, quickly made, are as many messages.
                os.link(original, name)
            else:
                original = name
                original.write_bytes(b"Subject: small\n\nbody\n")
        warm = self.server.memory
        connection = self.server.login(maildir.name)
        before = self.server.memory
        # Beside the snapshot what making it needed once, which Python keeps for the next.
        self.assertLess(before - warm, 250 * count + LIMIT)
        self.assertTrue(connection.ask(b"UIDL").startswith(b"+OK"))
        most = read_slowly(connection, 1 << 20, self.server)
        connection.lines()
        most = max(most, self.server.memory)
        self.assertLess(most - before, LIMIT)
        connection.close()

    def test_answers_that_nobody_reads(self):
        """A client that asks and asks and never reads is not listened to for long."""
        connection, _ = self.login([b"x\n"])
        before = self.server.memory
        connection.socket.setblocking(False)
        asked, refused = 0, 0
        request = b"LIST 1\r\n" * 8192
        while asked < 1_000_000 * 8 and refused < 100:
            try:
                asked += connection.socket.send(request)
                refused = 0
            except BlockingIOError:
                refused += 1
                time.sleep(0.01)
        self.assertGreater(refused, 0)
        self.assertLess(self.server.memory - before, LIMIT)

    def test_line_without_end(self):
        """A line of 10 MB is answered once, and not kept."""
        connection = self.server.connect()
        before = self.server.memory
        try:
            for _ in range(10):
                connection.socket.sendall(b"x" * (1 << 20))
        except (BrokenPipeError, ConnectionResetError):
            pass
        self.assertLess(self.server.memory - before, LIMIT)
        connection.abandon()

    def test_many_connections(self):
        """Two hundred idle sessions, and all that they held is given back."""
        name, _ = self.server.add_user([b"x\n"])
        fds = f"/proc/{self.server.process.pid}/fd"
        files = len(os.listdir(fds))
        before = self.server.memory
        users = [self.server.add_user([b"x\n"])[0] for _ in range(200)]
        connections = [self.server.login(user) for user in users]
        self.assertLess(self.server.memory - before, LIMIT)
        for connection in connections:
            connection.socket.shutdown(socket.SHUT_RDWR)
            connection.abandon()
        until(lambda: len(os.listdir(fds)) <= files, "files to be closed")
        self.server.login(name).close()
