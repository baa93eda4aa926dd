"""A server that speaks as much of PostgreSQL's protocol as a script of faults needs."""

import struct

from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol
from zope.interface import implementer

PREPARE = "prepare"
EXECUTE = "execute"

READY = b"Z\0\0\0\x05I"


def message(kind, *parts):
    """Return a message of the server."""
    body = b"".join(parts)
    return kind + struct.pack(">i", len(body) + 4) + body


def row(number):
    """Return the reply to a statement whose result is one bigint."""
    column = b"n\0" + struct.pack(">ihihih", 0, 0, 20, 8, -1, 1)
    value = struct.pack(">hiq", 1, 8, number)
    return (
        message(b"2")
        + message(b"T", struct.pack(">h", 1), column)
        + message(b"D", value)
        + message(b"C", b"SELECT 1\0")
    )


def notice(kind, severity, sqlstate):
    """Return an error (``b"E"``) or a notice (``b"N"``)."""
    fields = {b"S": severity, b"V": severity, b"C": sqlstate, b"M": b"the text"}
    return message(kind, *(name + text + b"\0" for name, text in fields.items()), b"\0")


class FakeServer(Factory):
    """Answers what clients send by a script.

    ``script`` has, in order, a function for each connection and each step of a statement, which
    gets the protocol and the name of the step; when it is empty, statements return 7.

    :ivar steps: the steps that came: ``connect``, PREPARE and EXECUTE.
    """

    def __init__(self, *script):
        self.script = list(script)
        self.steps = []
        self.protocols = []

    def buildProtocol(self, address):
        """Return a protocol."""
        protocol = _Backend(self)
        self.protocols.append(protocol)
        return protocol

    def act(self, protocol, step):
        """Do what the script says about a step."""
        self.steps.append(step)
        action = self.script.pop(0) if self.script else succeed
        action(protocol, step)


@implementer(IHalfCloseableProtocol)
class _Backend(Protocol):
    def __init__(self, server):
        self.server = server
        self.data = b""
        self.started = False
        self.is_executing = False
        self.parsed = self.bound = False
        self.queries = 0

    def dataReceived(self, data):
        self.data += data
        while True:
            head = 1 if self.started else 0
            if len(self.data) < head + 4:
                return
            [length] = struct.unpack_from(">i", self.data, head)
            if len(self.data) < head + length:
                return
            whole, self.data = self.data[: head + length], self.data[head + length :]
            self.received(whole)

    def readConnectionLost(self):
        # PostgreSQL does not read while it executes a statement.
        if not self.is_executing:
            self.transport.loseConnection()

    def writeConnectionLost(self):
        pass

    def received(self, whole):
        if not self.started:
            if whole[4:8] == struct.pack(">HH", 1234, 5679):
                # No TLS.
                self.transport.write(b"N")
                return
            self.started = True
            self.server.act(self, "connect")
            return
        kind = whole[:1]
        self.parsed |= kind == b"P"
        self.bound |= kind == b"B"
        # Scripts are never answered.
        self.queries += kind == b"Q"
        if kind == b"S":
            step = EXECUTE if self.bound else PREPARE
            self.reply = message(b"1") if self.parsed else b""
            self.parsed = self.bound = False
            self.is_executing = True
            self.server.act(self, step)


def succeed(protocol, step):
    """Do what was asked for."""
    if step == "connect":
        reply = (
            message(b"R", struct.pack(">i", 0))
            + message(b"S", b"server_version\x00150000\0")
            + message(b"K", struct.pack(">ii", 1, 1))
        )
    else:
        reply = protocol.reply + (row(7) if step == EXECUTE else b"")
    protocol.is_executing = False
    protocol.transport.write(reply + READY)


def break_off(protocol, step):
    """Close the connection."""
    protocol.transport.abortConnection()


def break_in_reply(protocol, step):
    """Close the connection after a part of the reply."""
    protocol.transport.write((protocol.reply + row(7))[:-9])
    protocol.transport.loseConnection()


def hang(protocol, step):
    """Answer nothing."""


def wait(protocol, step):
    """Do as if the statement had never come."""
    protocol.is_executing = False


def fail(sqlstate, severity=b"ERROR"):
    """Return an action that refuses the statement."""

    def action(protocol, step):
        protocol.is_executing = False
        protocol.transport.write(notice(b"E", severity, sqlstate))
        if severity == b"ERROR":
            protocol.transport.write(READY)
        else:
            protocol.transport.loseConnection()

    return action


def warn(protocol, step):
    """Do what was asked for, with a warning."""
    protocol.transport.write(notice(b"N", b"WARNING", b"01000"))
    succeed(protocol, step)
