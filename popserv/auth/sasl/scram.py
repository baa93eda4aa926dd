"""The server's side of SCRAM (RFC 5802, RFC 7677), with and without channel binding.

:func:`scram` hears who the client says it is.  What it returns are credentials that
talk on, once a checker has found the user's keys: the salt must reach the client
before it can prove anything.

A message that breaks the grammar of RFC 5802 section 7 is a BadCommand; one that
keeps it and proves nothing is a wrong password, whatever it is that does not fit.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from base64 import b64decode, b64encode
from collections.abc import Callable
from operator import xor

from zope.interface import implementer

from popserv.auth.passwords.scram_keys import ScramKeys
from popserv.auth.sasl.gs2 import unescape
from popserv.core.session import SendChallenge, TLSConnectionState
from popserv.errors import BadCommand, LoginFailed
from popserv.interfaces import IScramSHA1Credentials, IScramSHA256Credentials

# The words of RFC 5802 section 7.
_SASLNAME = rb"((?:[^\x00,=]|=2C|=3D)+)"
_CB_NAME = rb"([A-Za-z0-9.-]+)"
_NONCE = rb"([\x21-\x2b\x2d-\x7e]+)"
# With stray bits behind the last octet one proof would have many spellings.
_BASE64 = (
    rb"((?:[A-Za-z0-9+/]{4})*"
    rb"(?:[A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?)"
)
# Section 5.1: what is not known is passed over, but for "m", which must be understood.
_EXTENSIONS = rb"(?:,[A-Za-ln-z]=[^\x00,]+)*"

# An authzid may be empty, as gsasl sends it.
_CLIENT_FIRST = re.compile(
    rb"((?:n|(y)|p=%b),(?:a=%b?)?,)(n=%b,r=%b%b)"
    % (_CB_NAME, _SASLNAME, _SASLNAME, _NONCE, _EXTENSIONS)
)
_CLIENT_FINAL = re.compile(rb"(c=%b,r=%b%b),p=%b" % (_BASE64, _NONCE, _EXTENSIONS, _BASE64))


def _match(pattern: re.Pattern[bytes], message: bytes) -> re.Match[bytes]:
    found = pattern.fullmatch(message)
    if found is None or not _is_utf8(message):
        raise BadCommand("malformed SCRAM message")
    return found


def _is_utf8(message: bytes) -> bool:
    try:
        message.decode()
    except UnicodeDecodeError:
        return False
    return True


def _new_nonce() -> bytes:
    return secrets.token_urlsafe(18).encode("ascii")


class _ScramCredentials:
    """What both hashes have in common; one object is good for one exchange."""

    hash_name: str

    def __init__(
        self,
        send_challenge: SendChallenge,
        username: bytes,
        *,
        is_own: bool,
        binding: bytes,
        first: bytes,
        nonce: bytes,
    ) -> None:
        self.username = username
        self._ask = send_challenge
        self._is_own = is_own
        self._binding = b64encode(binding)
        self._first = first
        self._nonce = nonce
        self._is_used = False

    async def check_keys(self, keys: ScramKeys) -> bool:
        """See IScramCredentials.

        A client that proved nothing is sent no ``e=``: RFC 5802 section 5.1 leaves that
        to the server, and in POP3 it would be one more challenge to answer before the
        ``-ERR`` that says the same.

        :raises RuntimeError: these credentials were checked before.
        """
        if self._is_used:
            raise RuntimeError("a SCRAM exchange is good for one check")
        self._is_used = True
        first = b"r=%b,s=%b,i=%d" % (self._nonce, b64encode(keys.salt), keys.rounds)
        found = _match(_CLIENT_FINAL, await self._ask(first))
        without_proof, binding, nonce, proof = found.groups()
        message = b",".join([self._first, first, without_proof])
        # All is looked at before any of it decides, so that time tells nothing.
        is_proof = self._is_proof(keys, message, b64decode(proof))
        is_bound = hmac.compare_digest(binding, self._binding)
        if not (is_proof & is_bound & hmac.compare_digest(nonce, self._nonce) & self._is_own):
            if is_proof and not is_bound:
                raise LoginFailed from ValueError(
                    "the channel binding does not match this connection"
                )
            return False
        verifier = hmac.digest(keys.server_key, message, self.hash_name)
        # POP3's +OK carries no data: a challenge, with nothing to answer (RFC 5034 section 4).
        if await self._ask(b"v=" + b64encode(verifier)):
            raise BadCommand("empty response expected")
        return True

    def _is_proof(self, keys: ScramKeys, message: bytes, proof: bytes) -> bool:
        signature = hmac.digest(keys.stored_key, message, self.hash_name)
        client_key = bytes(map(xor, proof, signature))
        stored_key = hashlib.new(self.hash_name, client_key).digest()
        return len(proof) == len(signature) and hmac.compare_digest(stored_key, keys.stored_key)


@implementer(IScramSHA256Credentials)
class ScramSHA256Credentials(_ScramCredentials):
    """An exchange of SCRAM-SHA-256 or SCRAM-SHA-256-PLUS (RFC 7677)."""

    hash_name = "sha256"


@implementer(IScramSHA1Credentials)
class ScramSHA1Credentials(_ScramCredentials):
    """An exchange of SCRAM-SHA-1 or SCRAM-SHA-1-PLUS (RFC 5802)."""

    hash_name = "sha1"


ScramCredentials = ScramSHA256Credentials | ScramSHA1Credentials

_CREDENTIALS: dict[str, type[ScramCredentials]] = {
    "sha256": ScramSHA256Credentials,
    "sha1": ScramSHA1Credentials,
}


async def scram(
    hash_name: str,
    send_challenge: SendChallenge,
    tls_state: TLSConnectionState | None,
    *,
    plus: bool,
    plus_offered: bool,
    make_nonce: Callable[[], bytes] = _new_nonce,
) -> ScramCredentials:
    """Ask for the client's first message; return what its proof can be checked with.

    ``hash_name`` is ``sha256`` or ``sha1``, as hashlib calls it.  ``plus`` tells that
    the client chose the mechanism's -PLUS variant, ``plus_offered`` that it could
    have.  ``make_nonce`` makes the server's part of the nonce: printable ASCII, no commas.
    The name is UTF-8 as it came, whether or not a user is called that.

    :raises BadCommand: the message is malformed, or asks for a channel binding which
        is not to be had here.
    :raises LoginFailed: somebody between client and server hides that there is channel
        binding (RFC 5802 section 6).
    :raises popserv.errors.POPError: the client broke the exchange off.
    """
    found = _match(_CLIENT_FIRST, await send_challenge(b""))
    header, is_deceived, kind, authzid, first, name, nonce = found.groups()
    binding = header
    if plus:
        if kind is None:
            raise BadCommand("mechanism requires channel binding")
        data = tls_state.channel_binding(kind) if tls_state is not None else None
        if not data:
            raise BadCommand("channel binding type not available")
        binding += data
    elif kind is not None:
        raise BadCommand("channel binding requires a -PLUS mechanism")
    elif is_deceived and plus_offered:
        raise LoginFailed from ValueError("the client did not see the -PLUS mechanisms")
    return _CREDENTIALS[hash_name](
        send_challenge,
        unescape(name),
        # Nobody acts for another: who wants to be somebody else proves nothing.
        is_own=authzid in (None, name),
        binding=binding,
        first=first,
        nonce=nonce + make_nonce(),
    )
