"""A SCRAM client and functions that run exchanges, for the tests of SASL mechanisms."""

import hashlib
import hmac
from base64 import b64decode, b64encode

from popserv.auth.passwords.scram_keys import derive_scram_keys
from popserv.auth.sasl.scram import scram_exchange
from popserv.errors import BadCommand, POPError

SALT = b"sixteen salty by"
BINDINGS = {
    b"tls-exporter": b"\0\xff,=\r\n" * 6,
    b"tls-unique": bytes(range(36)),
    b"tls-server-end-point": bytes(range(100, 132)),
}
KEYS = {name: derive_scram_keys(name, b"pencil", SALT, 3) for name in ("sha1", "sha256")}


class FakeChannel:
    """TLS as it would be with these bindings."""

    def __init__(self, bindings=BINDINGS):
        self.bindings = bindings

    def channel_binding(self, kind):
        """See Channel."""
        assert isinstance(kind, bytes)
        return self.bindings.get(kind)

    def certificate_names(self):
        """See Channel."""
        return ()


def finish(coroutine):
    """Return what a coroutine returns that has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits")


def asking(answer):
    """Make an Ask of a client's function."""

    async def send_challenge(challenge):
        return answer(challenge)

    return send_challenge


def begin(answer, hash_name="sha256", bindings=BINDINGS, plus=False, offered=None, **more):
    """Return the credentials that come of an exchange's first message."""
    offered = plus if offered is None else offered
    tls_state = FakeChannel(bindings)
    send_challenge = asking(answer)
    return finish(
        scram_exchange(
            hash_name, send_challenge, tls_state, plus=plus, plus_offered=offered, **more
        )
    )


def outcome(answer, keys=None, hash_name="sha256", **more):
    """Tell how an exchange with a client's function ends: a bool or what is raised."""
    try:
        credentials = begin(answer, hash_name, **more)
        return finish(credentials.check_keys(keys or KEYS[hash_name]))
    except POPError as error:
        return type(error)


def replay(*answers):
    """Return a client's function that says this and that, whatever it is asked."""
    left = iter(answers)
    return lambda challenge: next(left)


def attributes(message):
    """Return a message's attributes."""
    return {part[:1]: part[2:] for part in message.split(b",")}


class Client:
    """A client as RFC 5802 section 3 puts it, with something else in places if told so.

    What it says instead it means: its proof is over the messages as it sends them.
    """

    def __init__(self, hash_name="sha256", password=b"pencil", header=b"n,,", bound=b"", **instead):
        self.hash_name = hash_name
        self.password = password
        self.header = header
        self.bound = bound
        self.instead = instead
        self.steps = iter([self.first, self.final, self.end])

    def __call__(self, challenge):
        """Answer a challenge."""
        return next(self.steps)(challenge)

    def first(self, challenge):
        """Return the client-first-message."""
        assert challenge == b""
        self.bare = b"n=%b,r=%b" % (self.instead.get("name", b"user"), b"mine")
        self.bare += self.instead.get("first_extensions", b"")
        return self.header + self.bare

    def final(self, challenge):
        """Return the client-final-message."""
        told = attributes(challenge)
        salt, rounds = b64decode(told[b"s"]), int(told[b"i"])
        salted = hashlib.pbkdf2_hmac(self.hash_name, self.password, salt, rounds)
        key = hmac.digest(salted, b"Client Key", self.hash_name)
        binding = self.instead.get("binding", b64encode(self.header + self.bound))
        nonce = self.instead.get("nonce", told[b"r"])
        final = b"c=%b,r=%b" % (binding, nonce) + self.instead.get("final_extensions", b"")
        message = b",".join([self.bare, challenge, final])
        stored = hashlib.new(self.hash_name, key).digest()
        signature = hmac.digest(stored, message, self.hash_name)
        proof = b64encode(bytes(a ^ b for a, b in zip(key, signature, strict=True)))
        server_key = hmac.digest(salted, b"Server Key", self.hash_name)
        self.expected = b"v=" + b64encode(hmac.digest(server_key, message, self.hash_name))
        return b"%b,p=%b" % (final, self.instead.get("proof", proof))

    def end(self, challenge):
        """Be content with the server's signature and nothing else."""
        if challenge != self.expected:
            raise BadCommand("that is not the server")
        return self.instead.get("end", b"")
