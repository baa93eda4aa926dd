"""AUTH with mechanisms that a checker passes on to another server."""

from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from zope.interface import implementer

from popserv.auth.credentials import ExchangeAborted
from popserv.errors import POPError
from popserv.interfaces import IRelayedCredentials, ISASLRelay
from tests.commands.harness import (
    LOGIN_FAILED,
    REMOTE_PEER,
    Checker,
    CommandTestCase,
    response_line,
)
from tests.commands.sasl_harness import EMPTY, NOT_AVAILABLE, NOT_BASE64, WELCOME


@implementer(ISASLRelay)
class Relay(Checker):
    """Asks the client once, unless it has sent an initial response; "ann" may log in."""

    offer = {b"NTLM": False, b"X-CLEAR": True}

    def __init__(self):
        super().__init__(self.relay, IRelayedCredentials, IUsernamePassword)
        self.responses = []

    def mechanisms(self):
        """See ISASLRelay."""
        return self.offer

    def relay(self, credentials):
        """Carry out the exchange."""
        return Deferred.fromCoroutine(self.converse(credentials))

    async def converse(self, credentials):
        """Carry out the exchange."""
        response = credentials.initial_response
        if response is None:
            try:
                response = await credentials.send_challenge(b"who?")
            except POPError as error:
                raise ExchangeAborted(str(error)) from error
        self.responses.append((credentials.mechanism, response))
        credentials.identify(response)
        if response != b"ann":
            raise UnauthorizedLogin("not ann")
        return response


class RelayTests(CommandTestCase):
    """The AUTH command with a relay."""

    def setUp(self):
        """Serve with a relay."""
        super().setUp()
        self.relay = Relay()
        self.serve(self.relay)

    def test_announced(self):
        """CAPA and AUTH list what the other server offers at this moment."""
        client = self.connect()
        self.assertEqual(client.mechanisms(), [b"NTLM", b"X-CLEAR", b"PLAIN", b"LOGIN"])
        self.relay.offer = {b"SCRAM-SHA-1": False}
        self.assertEqual(client.mechanisms(), [b"SCRAM-SHA-1", b"PLAIN", b"LOGIN"])
        self.assertIn(b"\r\nSCRAM-SHA-1\r\nPLAIN\r\n", client.send(b"AUTH\r\n"))
        self.assertEqual(client.send(b"AUTH NTLM\r\n"), NOT_AVAILABLE)

    def test_challenge(self):
        """The client gets the challenge of the other server, whose decision counts."""
        client = self.connect()
        self.assertEqual(client.send(b"auth ntlm\r\n"), b"+ d2hvPw==\r\n")
        self.assertEqual(client.send(b"YW5u\r\n"), WELCOME)
        self.assertEqual(self.relay.responses, [(b"NTLM", b"ann")])
        self.assertIn('"ann" logged in by NTLM', self.log_text())

    def test_initial_response(self):
        """An initial response is passed on, an empty one, too."""
        client = self.connect()
        self.assertEqual(client.send(b"AUTH NTLM YW5u\r\n"), WELCOME)
        client = self.connect()
        self.assertEqual(client.send_and_wait(b"AUTH NTLM =\r\n"), LOGIN_FAILED)
        self.assertEqual(self.relay.responses, [(b"NTLM", b"ann"), (b"NTLM", b"")])

    def test_refused(self):
        """A refused login is delayed and logged like any other, with the name."""
        client = self.connect()
        self.assertEqual(client.send(b"AUTH X-CLEAR " + response_line(b"bob")), b"")
        self.assertEqual(client.send_and_wait(), LOGIN_FAILED)
        self.assertIn('login of "bob" by X-CLEAR failed: not ann', self.log_text())

    def test_invalid(self):
        """A response that is not base64 is refused, and the exchange with it, which has no user."""
        client = self.connect()
        self.assertEqual(client.send(b"AUTH NTLM %\r\n"), NOT_BASE64)
        self.assertEqual(client.send(b"AUTH NTLM\r\n"), b"+ d2hvPw==\r\n")
        self.assertEqual(client.send_and_wait(b"%\r\n"), LOGIN_FAILED)
        self.assertEqual(self.relay.responses, [])
        self.assertIn('login of "" by NTLM aborted: invalid base64', self.log_text())

    def test_cleartext(self):
        """Where cleartext is not allowed, a mechanism in cleartext is not offered."""
        client = self.connect(peer=REMOTE_PEER)
        self.assertEqual(client.mechanisms(), [b"NTLM"])
        self.assertEqual(client.send(b"AUTH X-CLEAR YW5u\r\n"), NOT_AVAILABLE)
        self.assertNotIn(b"USER", client.capabilities())

    def test_own_mechanisms(self):
        """Popserv runs PLAIN itself for a checker of passwords, whether it is relayed or not."""
        self.relay.offer = {b"PLAIN": True}
        self.relay.decide = lambda credentials: credentials.username
        client = self.connect()
        self.assertEqual(client.send(b"AUTH PLAIN\r\n"), EMPTY)
        self.assertEqual(client.send(response_line(b"\0ann\0pw")), WELCOME)
        (credentials,) = self.relay.seen
        self.assertTrue(IUsernamePassword.providedBy(credentials))
