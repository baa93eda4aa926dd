"""What a client can make the server hold: memory, which is bounded whatever it asks for.

Bounds of memory alone: no test here depends on how fast the machine is.
"""

import os
import socket
import time
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from statistics import median
from threading import Event, Thread

from twisted.python import log

from tests.live.harness import PATIENCE, Server, ServerTestCase, deliver, temporary_directory

MB = 1 << 20
MANY = 100_000
LARGE = 200 * MB


@cache
def large_maildir():
    """Return a Maildir with one message of 200 MB, half of its lines a dot."""
    maildir = temporary_directory()
    deliver(maildir, [])
    block = (b"x" * 76 + b"\n.\n") * (MB // 79)
    with (maildir / "new" / "1600000000.M1P1.host").open("wb") as file:
        file.write(b"Subject: large\n\n")
        while file.publish() < LARGE:
            file.write(block)
    return maildir


@cache
def long_maildir():
    """Return a Maildir with that many tiny messages."""
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


def drain(session, command, slowly=0, look=lambda: None):
    """Ask for a multi-line response and read it, the first parts slowly; return its octets."""
    session.socket.sendall(command + b"\r\n")
    octets = 0
    end = b""
    while not end.endswith(b"\r\n.\r\n"):
        part = session.socket.recv(MB)
        if not part:
            raise AssertionError(f"closed in mid-response, after {octets} octets")
        octets += len(part)
        end = end[-5:] + part
        look()
        if slowly:
            slowly -= 1
            time.sleep(0.005)
    return octets


class MemoryTests(ServerTestCase):
    """VmRSS of the server, against what it was before."""

    def setUp(self):
        """Skip where there is no /proc to ask."""
        if not Path("/proc/self/status").exists():
            self.skipTest("no /proc here")

    @contextmanager
    def growth_below(self, octets, server=None):
        """Fail if the server has grown by more, at the end or whenever it was looked at."""
        server = server or self.server
        seen = [server.memory]
        yield lambda: seen.append(server.memory)
        growth = max([*seen[1:], server.memory]) - seen[0]
        log.msg(f"{self.id()}: grew by {growth / MB:.1f} MB")
        self.assertLess(growth, octets)

    def assert_flat(self, maildir, command, least):
        """Fail if a long reply to a slow reader costs the server memory."""
        name, _ = self.server.add_user(link=maildir)
        session = self.server.login(name, receive_buffer=1 << 14)
        self.addCleanup(session.abandon)
        with self.growth_below(10 * MB) as look:
            self.assertGreater(drain(session, command, slowly=60, look=look), least)

    def test_large_message(self):
        """RETR of 200 MB to a client that reads slowly costs the server a few chunks."""
        self.assert_flat(large_maildir(), b"RETR 1", LARGE)

    def test_long_listing(self):
        """UIDL of 100,000 messages to a client that reads slowly costs it the lines, once."""
        self.assert_flat(long_maildir(), b"UIDL", MANY * 40)

    def test_snapshot(self):
        """A login to 100,000 messages costs under 250 octets for each, their listings 100."""
        server = Server()
        self.addCleanup(server.stop)
        server.login(server.add_user([b"x\n"])[0]).close()
        name, _ = server.add_user(link=long_maildir())
        with self.growth_below(250 * MANY + 5 * MB, server):
            session = server.login(name)
            self.assertEqual(session.ask(b"STAT").split()[1], b"%d" % MANY)
        with self.growth_below(100 * MANY, server):
            drain(session, b"UIDL")
            drain(session, b"LIST")
        session.close()

    def test_pipelining_without_reading(self):
        """A million commands from a client that reads no reply wait in its own machine."""
        session, _ = self.login([b"x\n"])
        octets = memoryview(b"LIST 1\r\n" * 1_000_000)
        sent = idle = 0
        session.socket.setblocking(False)
        with self.growth_below(10 * MB) as look:
            while sent < len(octets) and idle < 40:
                try:
                    sent += session.socket.send(octets[sent : sent + (1 << 16)])
                    idle = 0
                except BlockingIOError:
                    idle += 1
                    time.sleep(0.01)
                look()
        session.socket.settimeout(PATIENCE)
        session.socket.shutdown(socket.SHUT_WR)
        self.assertEqual(session.rest().count(b"+OK 1 3\r\n"), sent // len(b"LIST 1\r\n"))

    def test_idle_connections(self):
        """Two hundred connections that do nothing cost little, and hold nobody up."""
        with self.growth_below(10 * MB):
            idle = [self.server.connect() for _ in range(200)]
            session, _ = self.login([b"x\n"])
            self.assertEqual(session.ask(b"STAT"), b"+OK 1 3")
        for connection in idle:
            self.assertEqual(connection.close()[:3], b"+OK")


class LatencyProbe(ServerTestCase):
    """How long others wait, for the log: nothing is asserted about time."""

    def test_probe(self):
        """While one user logs in to 100,000 messages or fetches 200 MB, others are answered."""
        large, _ = self.server.add_user(link=large_maildir())
        many, _ = self.server.add_user(link=long_maildir())
        other, _ = self.login([b"x\n"])
        for what, act in (
            ("nothing", lambda: time.sleep(0.5)),
            ("a login to 100,000 messages, uncounted", lambda: self.server.login(many).close()),
            ("a login to 100,000 messages, counted", lambda: self.server.login(many).close()),
            ("UIDL of 100,000 messages", lambda: self.drain(many, b"UIDL")),
            ("a login to 200 MB", lambda: self.server.login(large).close()),
            ("RETR of 200 MB", lambda: self.drain(large, b"RETR 1")),
        ):
            waits = self.waits(other, act)
            log.msg(
                f"latency probe: NOOP beside {what}: median {median(waits) * 1e3:.2f} ms, "
                f"longest {max(waits) * 1e3:.2f} ms of {len(waits)}"
            )

    def drain(self, name, command):
        """Log in and read the whole reply to a command."""
        session = self.server.login(name)
        drain(session, command)
        session.close()

    def waits(self, connection, act):
        """Return how long NOOP takes, again and again, while something is done."""
        done = Event()

        def work():
            try:
                act()
            finally:
                done.set()

        thread = Thread(target=work)
        thread.start()
        waits = []
        while not done.is_set():
            start = time.perf_counter()
            self.assertEqual(connection.ask(b"NOOP")[:3], b"+OK")
            waits.append(time.perf_counter() - start)
            time.sleep(0.001)
        thread.join()
        return waits
