"""The server side of SCRAM (RFC 5802, RFC 7677), with and without channel binding.

:func:`scram_exchange` receives the client's first message and returns credentials.  When a checker
has found the keys of the user, it calls ``check_keys`` of the credentials, which continues the
exchange: it sends the salt, and verifies the proof in the client's final message.

A message that violates the grammar of RFC 5802 section 7 raises BadCommand.  A well-formed message
with any wrong value fails like a wrong password.
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
from popserv.auth.sasl.gs2 import SASLNAME, decode_saslname
from popserv.core.session import SendChallenge, TLSConnectionState
from popserv.errors import BadCommand, LoginFailed
from popserv.interfaces import IScramSHA1Credentials, IScramSHA256Credentials

# The grammar of RFC 5802 section 7.
_SASLNAME = rb"(%b)" % SASLNAME
_CB_NAME = rb"([A-Za-z0-9.-]+)"
_NONCE = rb"([\x21-\x2b\x2d-\x7e]+)"
# The unused bits of the last digit must be 0, so that a proof has one encoding only.
_BASE64 = (
    rb"((?:[A-Za-z0-9+/]{4})*"
    rb"(?:[A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?)"
)
# Section 5.1: unknown attributes are ignored, except "m", which requires a known extension.
_EXTENSIONS = rb"(?:,[A-Za-ln-z]=[^\x00,]+)*"

# The authzid may be empty: gsasl sends it so.
_CLIENT_FIRST = re.compile(
    rb"((?:n|(y)|p=%b),(?:a=%b?)?,)(n=%b,r=%b%b)"
    % (_CB_NAME, _SASLNAME, _SASLNAME, _NONCE, _EXTENSIONS)
)
_CLIENT_FINAL = re.compile(rb"(c=%b,r=%b%b),p=%b" % (_BASE64, _NONCE, _EXTENSIONS, _BASE64))


def _match(pattern: re.Pattern[bytes], message: bytes) -> re.Match[bytes]:
    match = pattern.fullmatch(message)
    if match is None or not _is_utf8(message):
        raise BadCommand("malformed SCRAM message")
    return match


def _is_utf8(message: bytes) -> bool:
    try:
        message.decode()
    except UnicodeDecodeError:
        return False
    return True


def _new_nonce() -> bytes:
    return secrets.token_urlsafe(18).encode("ascii")


class _ScramCredentials:
    """The part of an exchange after the client's first message; both hashes share it.

    ``cbind_input`` and ``client_first_bare`` are those of RFC 5802 section 7, undecoded.
    ``nonce`` has the parts of the client and the server.  ``is_own_authzid`` tells whether the
    client asked for no other authorization identity than its authentication identity.
    """

    hash_name: str

    def __init__(
        self,
        send_challenge: SendChallenge,
        username: bytes,
        *,
        is_own_authzid: bool,
        cbind_input: bytes,
        client_first_bare: bytes,
        nonce: bytes,
    ) -> None:
        self.username = username
        self._send_challenge = send_challenge
        self._is_own_authzid = is_own_authzid
        self._channel_binding = b64encode(cbind_input)
        self._client_first_bare = client_first_bare
        self._nonce = nonce
        self._is_used = False

    async def check_keys(self, keys: ScramKeys) -> bool:
        """See :class:`popserv.interfaces.IScramCredentials`.

        A client with a wrong proof is sent no ``e=`` attribute, which is optional (RFC 5802
        section 5.1).  In POP3 it would be another challenge that the client must respond to before
        the ``-ERR``.

        :raises RuntimeError: the method was called before.
        """
        if self._is_used:
            raise RuntimeError("the keys of a SCRAM exchange can be checked only once")
        self._is_used = True
        server_first = b"r=%b,s=%b,i=%d" % (self._nonce, b64encode(keys.salt), keys.iterations)
        match = _match(_CLIENT_FINAL, await self._send_challenge(server_first))
        without_proof, channel_binding, nonce, proof = match.groups()
        auth_message = b",".join([self._client_first_bare, server_first, without_proof])
        # All values are compared before any result is used, so that the time does not depend on
        # which of them is wrong.
        is_proof = self._is_proof(keys, auth_message, b64decode(proof))
        is_bound = hmac.compare_digest(channel_binding, self._channel_binding)
        is_same_nonce = hmac.compare_digest(nonce, self._nonce)
        if not (is_proof & is_bound & is_same_nonce & self._is_own_authzid):
            if is_proof and not is_bound:
                raise LoginFailed from ValueError(
                    "the channel binding does not match this connection"
                )
            return False
        signature = hmac.digest(keys.server_key, auth_message, self.hash_name)
        # POP3's +OK has no additional data, so the server signature is sent as a challenge, to
        # which the response is empty (RFC 5034 section 4).
        if await self._send_challenge(b"v=" + b64encode(signature)):
            raise BadCommand("empty response expected")
        return True

    def _is_proof(self, keys: ScramKeys, auth_message: bytes, proof: bytes) -> bool:
        client_signature = hmac.digest(keys.stored_key, auth_message, self.hash_name)
        client_key = bytes(map(xor, proof, client_signature))
        stored_key = hashlib.new(self.hash_name, client_key).digest()
        is_right_length = len(proof) == len(client_signature)
        return is_right_length and hmac.compare_digest(stored_key, keys.stored_key)


@implementer(IScramSHA256Credentials)
class ScramSHA256Credentials(_ScramCredentials):
    """Credentials of SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 7677)."""

    hash_name = "sha256"


@implementer(IScramSHA1Credentials)
class ScramSHA1Credentials(_ScramCredentials):
    """Credentials of SCRAM-SHA-1 and SCRAM-SHA-1-PLUS (RFC 5802)."""

    hash_name = "sha1"


ScramCredentials = ScramSHA256Credentials | ScramSHA1Credentials

_CREDENTIALS: dict[str, type[ScramCredentials]] = {
    "sha256": ScramSHA256Credentials,
    "sha1": ScramSHA1Credentials,
}


async def scram_exchange(
    hash_name: str,
    send_challenge: SendChallenge,
    tls_state: TLSConnectionState | None,
    *,
    plus: bool,
    plus_offered: bool,
    make_nonce: Callable[[], bytes] = _new_nonce,
) -> ScramCredentials:
    """Receive the client's first message, and return credentials that continue the exchange.

    ``hash_name`` is ``sha256`` or ``sha1``.  ``plus`` tells whether the client chose the -PLUS
    variant of the mechanism, and ``plus_offered`` whether that was offered.  ``make_nonce``
    returns the server's part of the nonce, in printable ASCII without commas.

    The ``username`` of the credentials is the client's authentication identity, in UTF-8.  It is
    not prepared, and a user of this name need not exist.

    :raises BadCommand: the message is malformed, or requests a channel binding that is not
        available.
    :raises LoginFailed: the client supports channel binding and did not see that the server does;
        an attacker between them may have removed the -PLUS mechanisms (RFC 5802 section 6).
    :raises popserv.errors.POPError: the client aborted the exchange.
    """
    match = _match(_CLIENT_FIRST, await send_challenge(b""))
    gs2_header, saw_no_plus, cb_name, authzid, first_bare, name, nonce = match.groups()
    cbind_input = gs2_header
    if plus:
        if cb_name is None:
            raise BadCommand("mechanism requires channel binding")
        data = tls_state.channel_binding(cb_name) if tls_state is not None else None
        if not data:
            raise BadCommand("channel binding type not available")
        cbind_input += data
    elif cb_name is not None:
        raise BadCommand("channel binding requires a -PLUS mechanism")
    elif saw_no_plus and plus_offered:
        raise LoginFailed from ValueError("the client did not see the -PLUS mechanisms")
    return _CREDENTIALS[hash_name](
        send_challenge,
        decode_saslname(name),
        is_own_authzid=authzid in (None, name),
        cbind_input=cbind_input,
        client_first_bare=first_bare,
        nonce=nonce + make_nonce(),
    )
