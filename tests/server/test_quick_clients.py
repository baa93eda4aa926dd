"""popserv.server.quick_clients: a client gets the same replies, however quick it is."""

import select
import socket
from collections import deque
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet import unix
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from popserv.server import quick_clients
from popserv.transports.output import receive_now
from tests.commands.test_sending import AllCachedMaildrops, requests, several_texts
from tests.server.harness import ServerTestCase
from tests.server.test_protocol import COMMAND_LINES

LOGIN = (b"USER ann\r\n", b"PASS pw\r\n", b"NOOP\r\n")
NEVER = 1 << 30


class Conversation:
    """A client and a server, connected by a pair of sockets; the server's reactor is a test's."""

    def __init__(self, factory):
        """Connect them."""
        self._reactor = MemoryReactorClock()
        self._client, accepted = socket.socketpair()
        for each in (self._client, accepted):
            each.setblocking(False)
        server = factory.buildProtocol(None)
        server.callLater, server.seconds = self._reactor.callLater, self._reactor.seconds
        self._transport = unix.Server(accepted, server, "", None, 1, self._reactor)
        server.makeConnection(self._transport)
        self._waiting = deque()
        self.replies = b""
        self.quick = 0

    def send(self, packets):
        """Send packets, pairs of octets and of whether they are sent before the reactor waits."""
        self._waiting += packets
        while self._waiting and self._transport.connected:
            self._send_next()
            self._run_reactor()

    def close(self):
        """Close the client's socket; return the replies, and whether the server had closed."""
        was_closed = not self._transport.connected
        self._client.close()
        self._run_reactor()
        return self.replies, was_closed

    def receive(self, transport):
        """Do as ``receive_now``, when the next packet has arrived if it is a quick one."""
        if self._waiting and self._waiting[0][1]:
            self._send_next()
            self.quick += 1
        return receive_now(transport)

    def _send_next(self):
        self._client.sendall(self._waiting.popleft()[0])

    def _run_reactor(self):
        transport, reactor = self._transport, self._reactor
        has_run = True
        while has_run:
            has_run = any(call.getTime() <= reactor.seconds() for call in reactor.getDelayedCalls())
            reactor.advance(0)
            for ready, method in (
                (transport in reactor.getReaders(), "doRead"),
                (transport in reactor.getWriters(), "doWrite"),
            ):
                if ready and transport.connected and self._is_ready(method):
                    has_run = True
                    lost = getattr(transport, method)()
                    if lost:
                        transport.connectionLost(Failure(lost))
            while _is_readable(self._client) and (received := self._client.recv(1 << 16)):
                self.replies += received

    def _is_ready(self, method):
        return method == "doWrite" or _is_readable(self._transport.socket)


def _is_readable(connected):
    return connected.fileno() >= 0 and bool(select.select([connected], [], [], 0)[0])


class SameRepliesTests(ServerTestCase):
    """Series of packets, on real sockets."""

    @given(
        several_texts,
        st.lists(requests | st.sampled_from(COMMAND_LINES), min_size=1, max_size=30),
        st.lists(st.integers(0, 400), max_size=12),
        st.sets(st.integers(0, 12), max_size=4),
    )
    @example([b"a: b\n\n1\n"] * 3, [b"RETR 1\r\n", b"RETR 2\r\n", b"TOP 3 0\r\n"], [8, 12, 16], ())
    def test_same_replies(self, messages, lines, cuts, slow):
        """The replies are those to one line after the other, wherever the input is cut."""
        lines = [line if line.endswith(b"\n") else line + b"\r\n" for line in lines]
        octets = b"".join(lines)
        edges = sorted({0, *(cut for cut in cuts if cut < len(octets)), len(octets)})
        packets = [
            (octets[start:end], at not in slow) for at, (start, end) in enumerate(pairwise(edges))
        ]
        expected = self.converse(messages, [(line, False) for line in lines], NEVER)
        self.assertEqual(self.converse(messages, packets, NEVER), expected)
        self.assertEqual(self.converse(messages, packets, 1), expected)

    def test_quick(self):
        """A quick client's packets are read from the socket before the reactor waits."""
        packets = [(b"RETR 1\r\n", True), (b"TOP 2 0\r\nRE", True), (b"TR 2\r\n", True)]
        for min_alone, quick in ((1, 2), (NEVER, 0)):
            self.converse([b"a: b\n\n1\n"] * 2, packets, min_alone)
            self.assertEqual(self.conversation.quick, quick)

    def converse(self, messages, packets, min_alone):
        """Return what a client gets that sends packets, and whether it is closed."""
        self.store = AllCachedMaildrops(messages)
        self.conversation = Conversation(self.make_factory())
        self.patch(quick_clients, "receive_now", self.conversation.receive)
        self.patch(quick_clients, "perf_counter", lambda: 0.0)
        self.patch(quick_clients, "MAX_SKIPPED", 0)
        self.patch(quick_clients, "MIN_ALONE", min_alone)
        self.conversation.send([(line, False) for line in LOGIN])
        self.conversation.send(packets)
        return self.conversation.close()
