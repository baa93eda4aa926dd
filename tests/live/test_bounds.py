"""The server's memory stays bounded, and others are served, whatever a client requests.

No test here depends on the speed of the machine.
"""

import os
import socket
import time
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Event, Thread

from twisted.python import log

from tests.live.harness import TIMEOUT, Server, ServerTestCase, deliver, temporary_directory

MB = 1 << 20
MANY = 100_000
LARGE = 200 * MB


@cache
def large_maildir():
    """Return a Maildir with one message of 200 MB; half of its lines consist of a dot."""
    maildir = temporary_directory()
    deliver(maildir, [])
    block = (b"x" * 76 + b"\n.\n") * (MB // 79)
    with (maildir / "new" / "1600000000.M1P1.host").open("wb") as file:
        file.write(b"Subject: large\n\n")
        while file.tell() < LARGE:
            file.write(block)
    return maildir


@cache
def long_maildir():
    """Return a Maildir with 100,000 tiny messages."""
    maildir = temporary_directory()
    deliver(maildir, [])
    new = os.open(maildir / "new", os.O_RDONLY)
    try:
        for n in range(MANY):
            name = f"{1_600_000_000 + n}.M{n:06}P4711Q{n}.mail.example.org"
            file = os.open(name, os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=new)
            os.write(file, b"Subject: tiny\n\n%d\n" % n)
            os.close(file)
    finally:
        os.close(new)
    return maildir


def drain(session, command, slow_reads=0):
    """Request a multi-line response and read it; return its octets.

    The first ``slow_reads`` reads are delayed.
    """
    session.socket.sendall(command + b"\r\n")
    octets = 0
    end = b""
    while not end.endswith(b"\r\n.\r\n"):
        part = session.socket.recv(MB)
        if not part:
            raise AssertionError(f"connection closed within a response, after {octets} octets")
        octets += len(part)
        end = end[-5:] + part
        if slow_reads:
            slow_reads -= 1
            time.sleep(0.005)
    return octets


class MemoryTests(ServerTestCase):
    """The growth of the server's resident memory, at its peak (VmHWM)."""

    def setUp(self):
        """Skip the test without /proc."""
        if not Path("/proc/self/status").exists():
            self.skipTest("/proc is required")

    @contextmanager
    def growth_below(self, octets, server=None):
        """Fail if the memory grows by this or more at any time."""
        server = server or self.server
        before = server.reset_peak()
        yield
        growth = server.peak - before
        log.msg(f"{self.id()}: grew by {growth / MB:.1f} MB")
        self.assertLess(growth, octets)

    def assert_flat(self, maildir, command, min_octets):
        """Fail if a long reply to a slow client makes the server's memory grow."""
        name, _ = self.server.add_user(link=maildir)
        session = self.server.login(name, receive_buffer=1 << 14)
        self.addCleanup(session.abandon)
        with self.growth_below(10 * MB):
            octets = drain(session, command, slow_reads=60)
            self.assertGreater(octets, min_octets)

    def test_large_message(self):
        """RETR of 200 MB by a slow client holds only a few chunks in memory."""
        self.assert_flat(large_maildir(), b"RETR 1", LARGE)

    def test_long_listing(self):
        """UIDL of 100,000 messages by a slow client holds its lines in memory only once."""
        self.assert_flat(long_maildir(), b"UIDL", MANY * 40)

    def test_snapshot(self):
        """A login uses at most 350 octets of memory per message, and the listings 100."""
        maildir = temporary_directory(self)
        deliver(maildir, [])
        for entry in os.scandir(long_maildir() / "new"):
            os.link(entry, maildir / "new" / entry.name)
        session, server = self.assert_opened_below(350, maildir)
        with self.growth_below(100 * MANY, server):
            drain(session, b"UIDL")
            drain(session, b"LIST")
        session.close()
        # With the sizes from the file of the server before, and a folder that has changed.
        (maildir / "new" / "other").touch()
        (maildir / "new" / "other").unlink()
        session, _ = self.assert_opened_below(450, maildir)
        session.close()

    def assert_opened_below(self, octets, maildir):
        """Log in to 100,000 messages with another server; return the session and the server.

        Fail if the memory grows by this number of octets per message, or more, at any time.
        """
        server = Server()
        self.addCleanup(server.stop)
        server.login(server.add_user([b"x\n"])[0]).close()
        name, _ = server.add_user(link=maildir)
        with self.growth_below(octets * MANY, server):
            session = server.login(name)
            self.addCleanup(session.abandon)
            self.assertEqual(session.ask(b"STAT").split()[1], b"%d" % MANY)
        return session, server

    def test_pipelining_without_reading(self):
        """Commands of a client that does not read replies are not buffered in the server."""
        session, _ = self.login([b"x\n"])
        octets = memoryview(b"LIST 1\r\n" * 1_000_000)
        sent = idle = 0
        session.socket.setblocking(False)
        with self.growth_below(10 * MB):
            while sent < len(octets) and idle < 40:
                try:
                    sent += session.socket.send(octets[sent : sent + (1 << 16)])
                    idle = 0
                except BlockingIOError:
                    idle += 1
                    time.sleep(0.01)
        session.socket.settimeout(TIMEOUT)
        session.socket.shutdown(socket.SHUT_WR)
        self.assertEqual(session.rest().count(b"+OK 1 3\r\n"), sent // len(b"LIST 1\r\n"))

    def test_idle_connections(self):
        """200 idle connections use little memory and do not delay others."""
        with self.growth_below(10 * MB):
            idle = [self.server.connect() for _ in range(200)]
            session, _ = self.login([b"x\n"])
            self.assertEqual(session.ask(b"STAT"), b"+OK 1 3")
        for connection in idle:
            self.assertEqual(connection.close()[:3], b"+OK")


class OthersTests(ServerTestCase):
    """Other clients are served while one causes much work; not how fast, but that they are."""

    def assert_others_are_served(self, load):
        """Fail if another client gets next to no replies while a function runs in a thread."""
        other, _ = self.login([b"x\n"])
        done = Event()

        def work():
            try:
                load()
            finally:
                done.set()

        thread = Thread(target=work)
        thread.start()
        replies = 0
        while not done.is_set():
            self.assertEqual(other.ask(b"NOOP")[:3], b"+OK")
            replies += 1
        thread.join()
        log.msg(f"{self.id()}: {replies} replies")
        self.assertGreater(replies, 20)

    def test_login(self):
        """A login to 100,000 messages that are not cached holds up nobody."""
        name, _ = self.server.add_user(link=long_maildir())
        self.assert_others_are_served(lambda: self.server.login(name).close())

    def test_message(self):
        """RETR of 200 MB holds up nobody."""
        name, _ = self.server.add_user(link=large_maildir())
        session = self.server.login(name)
        self.addCleanup(session.abandon)
        self.assert_others_are_served(lambda: drain(session, b"RETR 1"))
