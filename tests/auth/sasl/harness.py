"""Fakes for the tests of SASL mechanisms: TLS, a client, a SCRAM client, and their exchanges."""

import hashlib
import hmac
from base64 import b64decode, b64encode

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from popserv.auth.passwords.scram_keys import derive_scram_keys
from popserv.auth.sasl.mechanisms import MECHANISMS
from popserv.auth.sasl.scram import scram_exchange
from popserv.core.session import Session
from popserv.errors import BadCommand, LoginFailed, POPError

SALT = b"sixteen salty by"
BINDINGS = {
    b"tls-exporter": b"\0\xff,=\r\n" * 6,
    b"tls-unique": bytes(range(36)),
    b"tls-server-end-point": bytes(range(100, 132)),
}
KEYS = {name: derive_scram_keys(name, b"pencil", SALT, 3) for name in ("sha1", "sha256")}


class FakeTLS:
    """The state of a TLS connection with these channel bindings and certificate names."""

    def __init__(self, bindings=BINDINGS, names=()):
        self.bindings = bindings
        self.names = names

    def channel_binding(self, kind):
        """See TLSConnectionState."""
        assert isinstance(kind, bytes)
        return self.bindings.get(kind)

    def certificate_names(self):
        """See TLSConnectionState."""
        return self.names


def result_of(coroutine):
    """Return the result of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("the coroutine waits")


def challenge_sender(respond):
    """Return a SendChallenge for a function that responds to challenges."""

    async def send_challenge(challenge):
        return respond(challenge)

    return send_challenge


class ScriptedClient:
    """A client that sends these responses, one after the other, and records the challenges.

    A response that is an exception is raised.
    """

    def __init__(self, *responses):
        self.responses = list(responses)
        self.challenges = []

    async def send_challenge(self, challenge):
        """See SendChallenge."""
        self.challenges.append(challenge)
        response = self.responses.pop(0)
        if isinstance(response, Exception):
            raise response
        return response


class AllSupported:
    """An authenticator that supports all kinds of credentials."""

    def supports(self, credentials):
        """See Authenticator."""
        return True

    def relayed_mechanisms(self):
        """See Authenticator."""
        return {}


def make_session(**options):
    """Return a session that supports all kinds of credentials."""
    return Session(AllSupported(), host=b"dewey", **options)


MECHANISMS_BY_NAME = {each.name: each for each in MECHANISMS}


def run_exchange(name, *responses, offered=(), **options):
    """Run the exchange of a mechanism; return the credentials and the scripted client.

    ``name`` is its name or the mechanism itself.  ``options`` are those of the session.
    """
    mechanism = MECHANISMS_BY_NAME.get(name, name)
    client = ScriptedClient(*responses)
    session = make_session(**options)
    credentials = result_of(mechanism.run(client.send_challenge, session, offered))
    verifyObject(mechanism.credentials, credentials)
    return credentials, client


class MechanismCase(SynchronousTestCase):
    """Has assertions for exchanges that fail."""

    def assertMalformed(self, name, *responses, **options):
        """The responses are malformed, and the error does not quote them."""
        error = self.assertRaises(BadCommand, run_exchange, name, *responses, **options)
        for response in responses:
            self.assertNotIn(repr(response)[2:-1] or "?", str(error.text))

    def assertFails(self, name, *responses, **options):
        """The login fails like one with a wrong password; return the error with its cause."""
        error = self.assertRaises(LoginFailed, run_exchange, name, *responses, **options)
        self.assertEqual(error.text, LoginFailed.text)
        self.assertIsNotNone(error.__cause__)
        return error


def begin_scram(respond, hash_name="sha256", bindings=BINDINGS, plus=False, offered=None, **more):
    """Run a SCRAM exchange up to the client's first message, and return the credentials.

    ``offered`` tells whether the -PLUS mechanism was offered; the default is ``plus``.
    """
    return result_of(
        scram_exchange(
            hash_name,
            challenge_sender(respond),
            FakeTLS(bindings),
            plus=plus,
            plus_offered=plus if offered is None else offered,
            **more,
        )
    )


def scram_outcome(respond, keys=None, hash_name="sha256", **more):
    """Run a whole SCRAM exchange; return the result of check_keys, or the type of the error."""
    try:
        credentials = begin_scram(respond, hash_name, **more)
        return result_of(credentials.check_keys(keys or KEYS[hash_name]))
    except POPError as error:
        return type(error)


def replay(*responses):
    """Return a function that responds with these messages, whatever the challenges are."""
    left = iter(responses)
    return lambda challenge: next(left)


def attributes(message):
    """Return the attributes of a SCRAM message, by their letters."""
    return {part[:1]: part[2:] for part in message.split(b",")}


class ScramClient:
    """A client that follows RFC 5802 section 3, apart from the values that ``instead`` replaces.

    Its proof is calculated over the messages as it sends them, replaced values included.
    """

    def __init__(self, hash_name="sha256", password=b"pencil", header=b"n,,", bound=b"", **instead):
        self.hash_name = hash_name
        self.password = password
        self.header = header
        self.bound = bound
        self.instead = instead
        self.steps = iter([self.first, self.final, self.end])

    def __call__(self, challenge):
        """Respond to a challenge."""
        return next(self.steps)(challenge)

    def first(self, challenge):
        """Return the client-first-message."""
        assert challenge == b""
        self.bare = b"n=%b,r=%b" % (self.instead.get("name", b"user"), b"mine")
        self.bare += self.instead.get("first_extensions", b"")
        return self.header + self.bare

    def final(self, challenge):
        """Return the client-final-message."""
        received = attributes(challenge)
        salt, iterations = b64decode(received[b"s"]), int(received[b"i"])
        salted = hashlib.pbkdf2_hmac(self.hash_name, self.password, salt, iterations)
        key = hmac.digest(salted, b"Client Key", self.hash_name)
        binding = self.instead.get("binding", b64encode(self.header + self.bound))
        nonce = self.instead.get("nonce", received[b"r"])
        final = b"c=%b,r=%b" % (binding, nonce) + self.instead.get("final_extensions", b"")
        message = b",".join([self.bare, challenge, final])
        stored = hashlib.new(self.hash_name, key).digest()
        signature = hmac.digest(stored, message, self.hash_name)
        proof = b64encode(bytes(a ^ b for a, b in zip(key, signature, strict=True)))
        server_key = hmac.digest(salted, b"Server Key", self.hash_name)
        self.expected = b"v=" + b64encode(hmac.digest(server_key, message, self.hash_name))
        return b"%b,p=%b" % (final, self.instead.get("proof", proof))

    def end(self, challenge):
        """Verify the server signature and return the last response."""
        if challenge != self.expected:
            raise BadCommand("wrong server signature")
        return self.instead.get("end", b"")
