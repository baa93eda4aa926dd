"""The dialogues of AUTH, with a client that knows the password and errs where the input says."""

import hmac
from base64 import b64decode, b64encode
from unittest.mock import patch

from popserv.auth.passwords import scram_selection
from popserv.auth.passwords.checker import SecretsChecker
from popserv.auth.passwords.users_file import parse_users
from popserv.auth.sasl.mechanisms import MECHANISMS
from popserv.commands import rfc1725, sasl
from popserv.errors import BadCommand
from popserv.interfaces import ICertificateCredentials, ITokenCredentials
from popserv.server import connection
from tests.auth.sasl.harness import BINDINGS, ScramClient
from tests.commands.harness import Checker, Client, FakeTLSState
from tests.commands.sasl_harness import reject_token
from tests.fuzz.target import Target, selected
from tests.fuzz.targets.server import Server, no_errors, reply_to

_COMMANDS = (*rfc1725.COMMANDS, *sasl.commands(MECHANISMS))
_NAMES = tuple(each.name for each in MECHANISMS)
_MAX_CHALLENGES = 3
_OAUTH = b"n,a=ann,\1auth=Bearer token\1\1"
_XOAUTH2 = b"user=ann\1auth=Bearer token\1\1"


async def _here(function, *arguments):
    return function(*arguments)


class _Users:
    """A source of users, all of whom are in memory."""

    def __init__(self, text):
        self._users = parse_users(text)

    async def find(self, name):
        """See UserSource."""
        return self._users.find(name)

    def secrets(self):
        """See UserSource."""
        return self._users


def _check_token(credentials):
    if credentials.token == b"token":
        return b"ann"
    return reject_token({"status": "invalid_token"})(credentials)


_PASSWORDS = SecretsChecker(_Users(b"ann:{PLAIN}pw\n"), _here)
_TOKENS = Checker(_check_token, ITokenCredentials)
_CERTIFICATES = Checker(
    lambda credentials: b"ann" if b"ann" in credentials.names else None, ICertificateCredentials
)


class RightClient:
    """Gives the right response to each challenge of a mechanism."""

    def __init__(self, mechanism):
        self._respond = {
            b"PLAIN": lambda _: b"\0ann\0pw",
            b"LOGIN": self._login,
            b"CRAM-MD5": self._cram_md5,
            b"EXTERNAL": lambda _: b"",
            b"OAUTHBEARER": lambda _: _OAUTH,
            b"XOAUTH2": lambda _: _XOAUTH2,
        }.get(mechanism)
        if self._respond is None:
            plus = mechanism.endswith(b"-PLUS")
            hash_name = "sha256" if b"256" in mechanism else "sha1"
            header = b"p=tls-exporter,," if plus else b"n,,"
            bound = BINDINGS[b"tls-exporter"] if plus else b""
            self._respond = ScramClient(hash_name, b"pw", header, bound, name=b"ann")
        self._number = 0

    def respond(self, challenge):
        """Return the response; the exchange may have gone wrong."""
        self._number += 1
        try:
            return self._respond(challenge)
        except (AssertionError, BadCommand, KeyError, StopIteration, ValueError):
            return b""

    def _login(self, _):
        return (b"ann", b"pw")[self._number != 1]

    def _cram_md5(self, challenge):
        return b"ann " + hmac.new(b"pw", challenge, "md5").hexdigest().encode()


def edited(right, edit):
    """Return a response with changes: pairs of a position, and what changes the octet there."""
    octets = bytearray(right)
    for position, change in zip(edit[::2], edit[1::2], strict=False):
        if position < len(octets):
            octets[position] ^= change
    return bytes(octets)


def check(data):
    """A dialogue ends after a few challenges; nobody is logged in without the secret."""
    selector, flags, rest = selected(data, 2)
    mechanism = _NAMES[selector % len(_NAMES)]
    steps = rest.split(b"\n")
    state = FakeTLSState((b"ann",), BINDINGS)
    with (
        no_errors(),
        patch.object(connection, "tls_state", lambda transport: state),
        patch.object(scram_selection, "SCRAM_ITERATIONS", 7),
    ):
        server = Server(_COMMANDS, [_PASSWORDS, _TOKENS, _CERTIFICATES])
        client = Client(server.factory, tls=True)
        responses, reply, is_right, right = exchange(client, mechanism, steps, flags & 1)
        if reply.startswith(b"+OK "):
            has_secret = knows_secret(mechanism, responses, right)
            assert is_right or has_secret, (mechanism, responses)
            assert client.send(b"NOOP\r\n") == b"+OK nothing done\r\n"
        elif not client.closed:
            assert client.send(b"NOOP\r\n").startswith(b"-ERR "), reply
            # CRAM-MD5 begins with a challenge: an initial response is refused.
            is_refused = mechanism == b"CRAM-MD5" and flags & 1
            assert is_refused or not is_right, (mechanism, responses, reply)
        server.end(client)


def exchange(client, mechanism, steps, has_initial_response):
    """Run the dialogue; return the responses, the last reply, whether all were right.

    Last comes the right response to the last challenge.
    """
    right = RightClient(mechanism)
    right_response = b""
    responses = []
    is_right = True

    def next_line(challenge):
        nonlocal is_right, right_response
        right_response = right.respond(challenge)
        step = steps.pop(0) if steps else b"\2*"
        if step[:1] == b"\2":
            is_right = False
            return step[1:].replace(b"\r", b"")
        response = edited(right_response, step[1:]) if step[:1] == b"\1" else step
        responses.append(response)
        is_right = is_right and response == right_response
        return b64encode(response)

    line = b"AUTH " + mechanism
    if has_initial_response:
        initial = next_line(b"")
        line += b" " + (initial or b"=")
    for number in range(_MAX_CHALLENGES + 2):
        reply = reply_to(client, line + b"\r\n")
        assert reply.count(b"\r\n") == reply.count(b"\n") == 1, reply
        assert b"SYS/" not in reply, reply
        if not reply.startswith(b"+ "):
            assert reply.startswith((b"+OK ", b"-ERR ")), reply
            return responses, reply, is_right, right_response
        assert number <= _MAX_CHALLENGES, "the server goes on with challenges"
        line = next_line(b64decode(reply[2:-2], validate=True))
    raise AssertionError("the dialogue has no end")


def knows_secret(mechanism, responses, right):
    """Return whether the responses have what only the user knows."""
    last = responses[-1] if responses else b""
    if mechanism == b"PLAIN":
        return last.endswith(b"\0pw")
    if mechanism == b"LOGIN":
        return last == b"pw"
    if mechanism in (b"OAUTHBEARER", b"XOAUTH2"):
        return b" token\1" in last
    if mechanism == b"CRAM-MD5":
        # Names are not case-sensitive.
        return last.lower() == right
    return mechanism == b"EXTERNAL"


_RIGHT = b"\1\n\1\n\1\n\1"

TARGET = Target(
    "sasl",
    check,
    (
        *(bytes([number, 0]) + _RIGHT for number in range(len(_NAMES))),
        *(bytes([number, 1]) + _RIGHT for number in range(len(_NAMES))),
        *(bytes([number, 1]) + b"\1\x02\x01\n\1\x09\x01\n\1" for number in range(len(_NAMES))),
        bytes([_NAMES.index(b"PLAIN"), 0]) + b"\1\6\1",
        *(b"\0\0ann\0bob\0pw", b"\0\0\2*", b"\0\0\2AA=A", b"\0\1\2="),
    ),
    (
        *(
            b"\n",
            b"\n\1",
            b"\n\2*",
            b"\1\0\x01",
            b"n,,",
            b"y,,",
            b"p=tls-unique,,",
            b"n=ann",
            b"r=",
        ),
        *(
            b"a=ann,",
            b"\1auth=Bearer ",
            b"\1\1",
            b"c=biws",
            b",p=",
            b",m=x",
            b"user=",
            b"=2C",
            b"\0",
        ),
    ),
    max_octets=256,
    seconds_per_octet=1e-3,
    calls_per_octet=3000,
    memory_per_octet=2000,
)
