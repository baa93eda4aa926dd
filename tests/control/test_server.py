"""The server's end of the control socket, with clients that are right and wrong."""

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.protocols import amp
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from popserv.control import commands
from popserv.control.responder import Responder
from popserv.control.server import ControlFactory, ControlProtocol
from popserv.runtime.bus import Answers
from popserv.testing.client import MemoryTransport
from tests.control.harness import ControlMixin


class ProducingTransport(MemoryTransport):
    """A transport that records whether it is read."""

    def registerProducer(self, producer, streaming):
        """See IConsumer."""
        self.producer = producer


def octets_of(command, ask=b"1", **arguments):
    """Return the octets of a command."""
    box = command.makeArguments(arguments, None)
    box.update({amp.COMMAND: command.commandName, amp.ASK: ask})
    return box.serialize()


STATUS = octets_of(commands.GetStatus)


class ServerTestCase(ControlMixin, SynchronousTestCase):
    """A control server and clients in memory."""

    def setUp(self):
        """Create the server."""
        super().setUp()
        self.control = ControlFactory(self.responder(), self.clock)

    def new_control(self):
        """Start again, with an empty log."""
        self.control = ControlFactory(self.responder(), self.clock)
        self.log._events.clear()

    def open(self):
        """Return the server's end of a connection."""
        protocol = self.control.buildProtocol(None)
        protocol.callLater = self.clock.callLater
        protocol.makeConnection(ProducingTransport())
        return protocol

    def answers(self, protocol):
        """Return the boxes that were sent."""
        boxes = amp.parseString(protocol.transport.value())
        protocol.transport.clear()
        return boxes

    def assert_disconnected(self, protocol, reason):
        """Check that a client was disconnected, which is logged once."""
        self.assertTrue(protocol.transport.aborted)
        lines = [line for line in self.log_lines() if line.startswith("control client")]
        self.assertEqual(lines, [f"control client disconnected: {reason}"])
        self.assertNotIn(protocol, self.control.connections)


class CommandTests(ServerTestCase):
    """Clients that keep to the protocol."""

    def test_interfaces(self):
        """The protocol receives boxes and is the producer of its transport."""
        protocol = self.open()
        verifyObject(amp.IBoxReceiver, protocol)
        verifyObject(IPushProducer, protocol)
        self.assertIs(ControlFactory(Responder(self.operations())).reactor, reactor)
        self.assertIsInstance(protocol, ControlProtocol)

    def test_command(self):
        """A command is answered; the next one may follow the answer."""
        protocol = self.open()
        for ask in (b"1", b"2"):
            protocol.dataReceived(octets_of(commands.GetStatus, ask))
            self.clock.advance(0)
            (answer,) = self.answers(protocol)
            self.assertEqual(answer[amp.ANSWER], ask)

    def test_pieces(self):
        """A command may arrive in any pieces."""
        protocol = self.open()
        for at in range(len(STATUS)):
            self.assertEqual(self.answers(protocol), [])
            protocol.dataReceived(STATUS[at : at + 1])
        self.assertEqual(len(self.answers(protocol)), 1)

    def test_refused(self):
        """A command that is refused has its reason in the answer; the connection stays."""
        protocol = self.open()
        protocol.dataReceived(octets_of(commands.Unblock, address="x"))
        (answer,) = self.answers(protocol)
        self.assertEqual(answer[amp.ERROR_CODE], b"REFUSED")
        self.assertFalse(protocol.transport.disconnecting)

    def test_invalid(self):
        """Unknown commands and invalid arguments are refused, and nothing is logged."""
        protocol = self.open()
        for box, code in [
            (amp.AmpBox({amp.COMMAND: b"sing", amp.ASK: b"1"}), b"UNHANDLED"),
            (amp.AmpBox({amp.COMMAND: b"kick", amp.ASK: b"1"}), b"INVALID"),
        ]:
            protocol.dataReceived(box.serialize())
            self.clock.advance(0)
            (answer,) = self.answers(protocol)
            self.assertEqual(answer[amp.ERROR_CODE], code)
        self.assertEqual(self.log_lines(), [])

    def test_lost(self):
        """A client that does not wait for its answer does no harm."""
        waiting = Deferred()
        self.control = ControlFactory(self.responder(ask=lambda *_: waiting), self.clock)
        protocol = self.open()
        protocol.dataReceived(STATUS)
        protocol.connectionLost()
        waiting.callback(Answers((), 1))
        self.clock.advance(1)
        self.assertEqual((len(self.control.connections), self.clock.getDelayedCalls()), (0, []))


class WrongClientTests(ServerTestCase):
    """Clients that stall, lie or send megabytes."""

    def test_timeout(self):
        """A client that sends no command, or stops within one, is disconnected."""
        for data in (b"", STATUS[:-1], STATUS):
            protocol = self.open()
            protocol.dataReceived(data)
            self.clock.pump([0, protocol.TIMEOUT - 1])
            self.assertFalse(protocol.transport.aborted)
            self.clock.advance(1)
            self.assert_disconnected(
                protocol, "it has sent no command for 30 seconds, or has not read the answer"
            )
            self.new_control()

    def test_slow_command(self):
        """The time of a command that takes long does not count."""
        waiting = Deferred()
        self.control = ControlFactory(self.responder(ask=lambda *_: waiting), self.clock)
        protocol = self.open()
        protocol.dataReceived(STATUS)
        self.clock.advance(100)
        waiting.callback(Answers((), 1))
        self.clock.advance(1)
        self.assertEqual(len(self.answers(protocol)), 1)
        self.assertFalse(protocol.transport.aborted)

    def test_megabytes(self):
        """A command that does not end is refused before it takes memory."""
        protocol = self.open()
        pair = b"\x00\x01k\x03\xe8" + b"x" * 1000
        for _ in range(5):
            protocol.dataReceived(pair)
        self.assert_disconnected(protocol, "it has sent a command of more than 4096 octets")

    def test_no_amp(self):
        """What is not AMP is refused."""
        protocol = self.open()
        protocol.dataReceived(b"USER ann\r\n")
        self.assert_disconnected(protocol, "it does not speak AMP")

    def test_no_command(self):
        """Answers to questions that were never asked are refused, and nothing after them runs."""
        both = {amp.COMMAND: b"reload", amp.ASK: b"1"}
        for box in (
            amp.AmpBox({amp.ANSWER: b"1"}),
            amp.AmpBox({amp.COMMAND: b"reload"}),
            amp.AmpBox({**both, amp.ANSWER: b"1"}),
            amp.AmpBox({**both, amp.ERROR: b"1"}),
        ):
            protocol = self.open()
            protocol.dataReceived(box.serialize() + octets_of(commands.Reload))
            self.assert_disconnected(protocol, "it has sent something else than a command")
            self.assertEqual(self.calls, [])
            self.new_control()

    def test_empty(self):
        """So is an empty box."""
        protocol = self.open()
        protocol.dataReceived(b"\x00\x00")
        self.assert_disconnected(protocol, "it has sent something else than a command")

    def test_two_at_once(self):
        """A second command in the same read is not carried out."""
        protocol = self.open()
        protocol.dataReceived(octets_of(commands.Reload) * 3)
        self.assert_disconnected(
            protocol, "it has sent a command before the answer to the last one"
        )
        self.assertEqual(self.calls, ["reload"])

    def test_early(self):
        """A command that does not wait for the answer to the last one is not carried out."""
        self.control = ControlFactory(self.responder(ask=lambda *_: Deferred()), self.clock)
        protocol = self.open()
        for _ in range(2):
            protocol.dataReceived(STATUS)
        self.assert_disconnected(
            protocol, "it has sent a command before the answer to the last one"
        )

    def test_not_reading(self):
        """While a client does not read its answer, nothing more is read from it."""
        protocol = self.open()
        transport = protocol.transport
        self.assertIs(transport.producer, protocol)
        protocol.pauseProducing()
        self.assertEqual(transport.producerState, "paused")
        protocol.resumeProducing()
        self.assertEqual(transport.producerState, "producing")
        protocol.stopProducing()

    def test_many(self):
        """Of too many connections, the oldest is closed, which is logged once a minute."""
        self.patch(ControlProtocol, "TIMEOUT", 1000)
        protocols = [self.open() for _ in range(1000)]
        kept = ControlFactory.MAX_CONNECTIONS
        self.assertEqual([each.transport.aborted for each in protocols[:-kept]], [True] * 980)
        self.assertEqual(list(self.control.connections), protocols[-kept:])
        protocols[0].connectionLost()
        self.assertEqual(len(self.control.connections), kept)
        reason = "there are more than 20, and it is the oldest"
        self.assert_disconnected(protocols[0], reason)
        protocols[-1].dataReceived(b"USER ann\r\n")
        self.clock.advance(ControlFactory.LOG_INTERVAL)
        for _ in range(2):
            self.open()
        self.assertEqual(
            [line.partition(": ")[2] for line in self.log_lines()],
            [reason, "it does not speak AMP", reason],
        )
