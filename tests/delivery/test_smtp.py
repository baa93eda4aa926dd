"""popserv.delivery.smtp: final delivery behind the SMTP server of Twisted."""

from base64 import b64encode
from io import BytesIO
from unittest import mock

from twisted.cred.checkers import (
    AllowAnonymousAccess,
    InMemoryUsernamePasswordDatabaseDontUse,
)
from twisted.cred.portal import IRealm, Portal
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import EventLoggingObserver, StringTransport
from twisted.logger import formatEvent, globalLogPublisher
from twisted.mail.imap4 import PLAINCredentials
from twisted.mail.interfaces import IMessageDelivery, IMessageDeliveryFactory, IMessageSMTP
from twisted.mail.smtp import ESMTP, Address, SMTPFactory, User
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from popserv.delivery import smtp
from popserv.delivery.recipients import Recipients
from popserv.delivery.smtp import DeliveryESMTP, SMTPDeliveryFactory, SMTPRealm
from popserv.errors import DeliveryRefused, TryLater
from popserv.interfaces import IJointDelivery
from tests.delivery.harness import Maildrops


@implementer(IJointDelivery)
class JointMaildrops(Maildrops):
    """Maildrops that all get a message or none."""

    calls = 0

    async def deliver_to_all(self, recipients, message):
        """See IJointDelivery."""
        self.calls += 1
        for user, _ in recipients:
            if user in self.errors:
                raise self.errors[user]
        for recipient in recipients:
            await self.deliver_new(*recipient, message)


class SMTPCase(SynchronousTestCase):
    """A server for the users ann, bob and cid."""

    checker = AllowAnonymousAccess()

    def setUp(self):
        """Make the store, the server and a client."""
        self.store = self.make_store()
        for user in (b"ann", b"bob", b"cid"):
            self.store.stored[user] = {}
        self.events = EventLoggingObserver()
        globalLogPublisher.addObserver(self.events)
        self.addCleanup(globalLogPublisher.removeObserver, self.events)
        self.connect()

    def make_store(self):
        """Return the store."""
        return JointMaildrops()

    def connect(self, protocol=DeliveryESMTP, **settings):
        """Connect a client that has sent EHLO."""
        recipients = Recipients(self.store, [], local_part_only=True)
        self.factory = SMTPDeliveryFactory(self.store, recipients, **settings)
        server = SMTPFactory(Portal(SMTPRealm(self.factory), [self.checker]))
        server.noisy = False
        server.protocol = protocol
        self.server = server.buildProtocol(None)
        self.server.noisy = False
        self.transport = StringTransport(peerAddress=IPv4Address("TCP", "192.0.2.1", 5))
        self.server.makeConnection(self.transport)
        self.addCleanup(self.server.setTimeout, None)
        self.ask(b"EHLO client.example.org")

    def ask(self, *lines):
        """Send lines, and return the lines of the replies."""
        self.transport.clear()
        for line in lines:
            self.server.dataReceived(line + b"\r\n")
        return self.transport.value().decode().splitlines()

    def send(self, *recipients, text=(b"Subject: x", b"", b"text"), sender=b"sam@example.org"):
        """Send a message; return the reply."""
        rcpts = [b"RCPT TO:<%b@example.org>" % each for each in recipients]
        replies = self.ask(b"MAIL FROM:<%b>" % sender, *rcpts, b"DATA")
        self.assertEqual([each[:3] for each in replies], ["250"] * (len(rcpts) + 1) + ["354"])
        (reply,) = self.ask(*text, b".")
        return reply

    def lines(self):
        """Return the lines that popserv.delivery has logged."""
        found = [each for each in self.events if each["log_namespace"] == "popserv.delivery"]
        return [formatEvent(each) for each in found]


class DeliveryTests(SMTPCase):
    """Messages and replies, by a store that delivers to all or none."""

    def test_interfaces(self):
        """The objects provide what Twisted asks for."""
        verifyObject(IJointDelivery, self.store)
        verifyObject(IMessageDeliveryFactory, self.factory)
        delivery = self.factory.getMessageDelivery()
        verifyObject(IMessageDelivery, delivery)
        user = User(Address(b"ann@example.org"), (b"x", b"y"), None, Address(b""))
        make = self.successResultOf(delivery.validateTo(user))
        message = make()
        verifyObject(IMessageSMTP, message)
        message.connectionLost()

    def test_delivered(self):
        """The stored message has two fields more, and the wire form that was received."""
        text = (b"Subject: x", b"", b"..", b"..dots", b"a CR at the end\r", b"last")
        self.assertTrue(self.send(b"ann", text=text).startswith("250 "))
        [message] = self.store.messages(b"ann")
        path, received, rest = message.split(b"\n", 2)
        self.assertEqual(path, b"Return-Path: <sam@example.org>")
        self.assertRegex(
            received, rb"^Received: from client\.example\.org \(\[192\.0\.2\.1\]\) by \S+; .* "
        )
        expected = b"Subject: x\n\n.\n.dots\na CR at the end\r\r\nlast\n"
        self.assertEqual(rest, expected)
        octets = len(message) - len(path) - 1
        self.assertEqual(
            self.lines(),
            [
                f'192.0.2.1: message from "sam@example.org" delivered to "ann", {octets} octets',
            ],
        )
        # Without a name and a sender.
        delivery = self.factory.getMessageDelivery()
        delivery.validateFrom((None, "192.0.2.2"), Address(b"<>"))
        field = delivery.receivedHeader((None, "192.0.2.2"), None, [])
        self.assertTrue(field.startswith(b"Received: from unknown ([192.0.2.2]) by "))

    def test_recipients(self):
        """All recipients get the message in one delivery, and one with two addresses once."""
        self.assertTrue(self.send(b"ann", b"bob", b"ann").startswith("250 "))
        self.assertEqual(self.store.calls, 1)
        [message] = self.store.messages(b"ann")
        self.assertEqual(self.store.messages(b"bob"), [message])
        self.assertEqual(message.count(b"\n"), 5)
        self.assertNotIn(b"example.org>", message.partition(b"\n")[2])
        self.assertTrue(self.send(b"ann", sender=b"").startswith("250 "))
        self.assertTrue(self.store.messages(b"ann")[1].startswith(b"Return-Path: <>\n"))

    def test_failure(self):
        """If one cannot get it, nobody does, and the reply says whether to try again."""
        self.store.errors[b"bob"] = TryLater()
        self.assertEqual(self.send(b"ann", b"bob"), "451 4.3.0 temporary failure, try again later")
        self.store.errors[b"bob"] = DeliveryRefused("secret")
        self.assertEqual(self.send(b"ann", b"bob"), "554 5.6.0 message cannot be stored")
        self.assertEqual(self.store.messages(b"ann"), [])
        self.assertEqual(len(self.lines()), 4)
        self.assertTrue(self.send(b"ann").startswith("250 "))

    def test_stock_server(self):
        """Twisted's own server refuses for good whatever fails."""
        self.connect(ESMTP)
        self.store.errors[b"ann"] = TryLater()
        self.assertTrue(self.send(b"ann").startswith("550 "))
        self.assertEqual(len(self.flushLoggedErrors()), 1)
        self.assertTrue(self.send(b"bob").startswith("250 "))

    def test_unexpected(self):
        """What is not foreseen is logged, and Twisted replies."""
        with mock.patch.object(smtp, "deliver_to_all", side_effect=KeyError):
            self.assertTrue(self.send(b"ann").startswith("550 "))
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_recipient_refused(self):
        """An unknown recipient is refused, one that cannot be looked up now is tried again."""
        self.ask(b"MAIL FROM:<>")
        self.assertEqual(self.ask(b"RCPT TO:<eve@example.org>"), ["550 5.1.1 no such user here"])
        replies = self.ask(b'RCPT TO:<"a\tb"@example.org>')
        self.assertEqual(replies, ["501 5.5.4 syntax error in the arguments"])
        with mock.patch.object(Recipients, "find", side_effect=TryLater):
            replies = self.ask(b"RCPT TO:<ann@example.org>")
        self.assertEqual(replies, ["451 4.3.0 temporary failure, try again later"])
        self.assertEqual(len(self.lines()), 2)

    def test_errors(self):
        """An unknown recipient has an exception of its own."""
        delivery = self.factory.getMessageDelivery()
        unknown, known = (
            User(Address(name + b"@example.org"), (b"x", b"y"), None, Address(b""))
            for name in (b"eve", b"ann")
        )
        self.failureResultOf(delivery.validateTo(unknown), smtp.SMTPBadRcpt)
        with mock.patch.object(Recipients, "find", side_effect=TryLater):
            failure = self.failureResultOf(delivery.validateTo(known))
        self.assertIs(failure.type, smtp.SMTPServerError)

    def test_text_refused(self):
        """A message with a bare LF, too long, or for which there is no room is refused."""
        reply = self.send(b"ann", b"bob", text=(b"a: b", b"x\n.\ny", b"more"))
        self.assertEqual(reply, "554 5.6.0 a line of the message ends with LF instead of CR LF")
        self.connect(max_octets=200)
        self.assertTrue(self.send(b"ann", text=(b"a: b",)).startswith("250 "))
        reply = self.send(b"ann", text=(b"a: b", b"x" * 150, b"y" * 60))
        self.assertEqual(reply, "552 5.3.4 message is too large")
        with mock.patch.object(smtp, "spool_file") as spool:
            full = OSError(28, "No space left")
            spool.return_value.write.side_effect = [None, None, full, None, full]
            spool.return_value.close.side_effect = full
            replies = [self.send(b"ann")]
            self.ask(b"MAIL FROM:<>", b"RCPT TO:<ann@example.org>")
            replies += self.ask(b"DATA")
        self.assertEqual(replies, ["452 4.3.1 no room for the message, try again later"] * 2)
        self.assertIn("No space left", self.lines()[-1])
        self.assertEqual(len(self.store.messages(b"ann")), 1)
        self.connect(max_octets=0)
        self.assertTrue(self.send(b"ann", text=(b"a: b", b"x" * 300)).startswith("250 "))

    def test_limit(self):
        """A message may have as many octets as the limit says, and then its text is dropped."""
        self.send(b"ann")
        (message,) = self.store.messages(b"ann")
        octets = len(message.partition(b"\n")[2])
        for limit, code in ((octets, "250"), (octets - 1, "552"), (1, "552")):
            self.connect(max_octets=limit)
            file = BytesIO()
            with mock.patch.object(smtp, "spool_file", return_value=file):
                replies = self.ask(b"MAIL FROM:<>", b"RCPT TO:<ann@example.org>", b"DATA")
                replies += self.ask(b"Subject: x", b"", b"text")
                self.assertEqual(file.closed, code == "552")
                replies += self.ask(b".")
            self.assertIn(code, [each[:3] for each in replies[2:]])

    def test_waiting(self):
        """The reply is sent when the store has the message."""
        self.store.waiting = Deferred()
        rcpt = (b"RCPT TO:<ann@example.org>", b"RCPT TO:<bob@example.org>")
        self.ask(b"MAIL FROM:<>", *rcpt, b"DATA")
        self.assertEqual(self.ask(b"a: b", b"."), [])
        self.store.waiting.callback(None)
        self.assertTrue(self.transport.value().startswith(b"250 "))

    def test_connection_lost(self):
        """A message that breaks off is dropped."""
        file = BytesIO()
        with mock.patch.object(smtp, "spool_file", return_value=file):
            self.ask(b"MAIL FROM:<>", b"RCPT TO:<ann@example.org>", b"DATA", b"a: b")
        self.server.connectionLost(Failure(ConnectionDone()))
        self.assertTrue(file.closed)
        self.assertEqual(self.store.messages(b"ann"), [])


class OneByOneTests(SMTPCase):
    """A store that delivers to one user at a time."""

    def make_store(self):
        """Return the store."""
        return Maildrops()

    def test_failure(self):
        """Those before a failure have the message, those behind it get it when it comes again."""
        self.store.errors[b"bob"] = TryLater()
        reply = self.send(b"ann", b"bob", b"cid")
        self.assertEqual(reply, "451 4.3.0 temporary failure, try again later")
        counts = [len(self.store.messages(user)) for user in (b"ann", b"bob", b"cid")]
        self.assertEqual(counts, [1, 0, 0])
        self.store.errors.clear()
        self.assertTrue(self.send(b"ann", b"bob", b"cid").startswith("250 "))
        counts = [len(self.store.messages(user)) for user in (b"ann", b"bob", b"cid")]
        self.assertEqual(counts, [2, 1, 1])


class RealmTests(SMTPCase):
    """Clients that must log in."""

    checker = InMemoryUsernamePasswordDatabaseDontUse(ann=b"secret")

    def log_in(self, password):
        """Log in by AUTH PLAIN; return the reply."""
        response = b64encode(b"\0ann\0" + password)
        (reply,) = self.ask(b"AUTH PLAIN " + response)
        return reply

    def connect(self, protocol=DeliveryESMTP, **settings):
        """Connect a client to a server with AUTH PLAIN."""
        super().connect(lambda: protocol({b"PLAIN": PLAINCredentials}), **settings)

    def test_interface(self):
        """The avatars are delivery factories."""
        realm = SMTPRealm(self.factory)
        verifyObject(IRealm, realm)
        self.assertRaises(NotImplementedError, realm.requestAvatar, b"ann", None, IMessageDelivery)
        avatar = realm.requestAvatar(b"ann", None, IMessageDelivery, IMessageDeliveryFactory)
        self.assertEqual(avatar[:2], (IMessageDeliveryFactory, self.factory))
        self.server.connectionLost(Failure(ConnectionDone()))

    def test_login(self):
        """A user can deliver, and nobody else."""
        (reply,) = self.ask(b"MAIL FROM:<sam@example.org>")
        self.assertEqual(reply[:4], "550 ")
        self.assertEqual(self.log_in(b"wrong")[:4], "535 ")
        (reply,) = self.ask(b"MAIL FROM:<sam@example.org>")
        self.assertEqual(reply[:4], "550 ")
        self.assertEqual(self.log_in(b"secret")[:4], "235 ")
        self.assertTrue(self.send(b"bob").startswith("250 "))
        self.assertEqual(len(self.store.messages(b"bob")), 1)
        self.server.connectionLost(Failure(ConnectionDone()))
