"""One exchange with Dovecot, from its first line to OK or FAIL."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from twisted.cred.error import UnauthorizedLogin

from popserv.auth.dovecot.client import AuthClient
from popserv.auth.dovecot.connection import AuthConnection, ConnectionFailed, NoReply
from popserv.auth.dovecot.lines import ProtocolError, Reply
from popserv.auth.users.outages import NotAsked, ServerUnavailable
from popserv.auth.users.records import service_user
from popserv.auth.users.user import User
from popserv.core.connection_details import connection_details
from popserv.core.printable import printable
from popserv.core.session import SendChallenge
from popserv.errors import BadCommand, POPError, TryLater

MAX_RESPONSE = 6144
"""The maximum octets of a response: in base64 as many as Dovecot's own POP3 server accepts.

If a line has twice as many, Dovecot breaks the connection, and with it the logins of others.
"""

_REASONS = {
    b"authz": "not authorized",
    b"authz_fail": "not authorized",
    b"user_disabled": "the account is disabled",
    b"pass_expired": "the password has expired",
}
"""The reasons of FAIL, which are fields, or values of the field ``code``."""

_REFUSING = {
    b"nologin": "nologin is set",
    b"proxy": "the mail is on another server",
    b"proxy_maybe": "the mail is on another server",
    b"host": "the mail is on another server",
}
"""The fields of OK with which no maildrop is opened here."""


class Aborted(Exception):
    """The client has ended the exchange; the cause is a POPError."""


async def _no_challenge(challenge: bytes) -> bytes:
    raise ProtocolError("it has sent a challenge after the whole response")


async def run_exchange(
    client: AuthClient,
    mechanism: bytes,
    initial: bytes | None,
    send_challenge: SendChallenge = _no_challenge,
    identify: Callable[[bytes], object] = lambda name: None,
) -> User:
    """Run an exchange of a mechanism; return what Dovecot says about the user.

    ``identify`` is called with the user's name, even if Dovecot refuses the user.

    If the connection is lost before the first reply, the exchange begins again, once, on the next
    connection, so that a restart of Dovecot refuses no password.  Later it fails with TryLater:
    Dovecot has forgotten the challenge.

    :raises UnauthorizedLogin: Dovecot refuses the user.
    :raises ServerUnavailable: Dovecot does not answer, or reports a temporary failure.
    :raises TryLater: there is no connection to Dovecot, which is logged already.
    :raises Aborted: ``send_challenge`` has raised a POPError.
    """
    _check_length(initial)
    try:
        connection, number, reply = await _begin(client, mechanism, initial)
        reply = await _converse(connection, number, reply, send_challenge)
        if reply.kind == b"OK" and reply.challenge is not None:
            await _send_last_data(reply.challenge, send_challenge)
    except (NoReply, ProtocolError) as error:
        raise ServerUnavailable(str(error)) from error
    except ConnectionFailed:
        # The client has logged it, once.
        raise TryLater from None
    return _verified(reply.fields, identify, reply.kind == b"OK")


async def _begin(
    client: AuthClient, mechanism: bytes, initial: bytes | None, *, is_repeated: bool = False
) -> tuple[AuthConnection, int, Reply]:
    """Return the connection, the number of the request, and the first reply."""
    details = connection_details.get()()
    connection = await client.connection()
    if mechanism not in connection.mechanisms:
        raise ProtocolError(f"it does not offer {printable(mechanism)} any more")
    try:
        number, reply = await connection.begin(mechanism, details, initial)
    except ConnectionFailed as error:
        if is_repeated or isinstance(error, NoReply):
            raise
        return await _begin(client, mechanism, initial, is_repeated=True)
    return connection, number, reply


async def _converse(
    connection: AuthConnection, number: int, reply: Reply, send_challenge: SendChallenge
) -> Reply:
    """Pass on challenges and responses until Dovecot has decided; return OK or FAIL."""
    while reply.kind == b"CONT":
        try:
            response = await _response(reply.challenge or b"", send_challenge)
            _check_length(response)
        except BaseException:
            connection.cancel(number)
            raise
        reply = await connection.respond(number, response)
    return reply


async def _response(challenge: bytes, send_challenge: SendChallenge) -> bytes:
    try:
        return await send_challenge(challenge)
    except POPError as error:
        raise Aborted from error


async def _send_last_data(data: bytes, send_challenge: SendChallenge) -> None:
    """Send what follows success as a challenge (RFC 5034 section 4): +OK has no data."""
    if await _response(data, send_challenge):
        raise Aborted from BadCommand("empty response expected")


def _check_length(response: bytes | None) -> None:
    if response is not None and len(response) > MAX_RESPONSE:
        raise NotAsked(f"the response is longer than {MAX_RESPONSE} octets")


def _verified(
    fields: Mapping[bytes, bytes], identify: Callable[[bytes], object], is_ok: bool
) -> User:
    user = fields.get(b"user", b"")
    identify(user)
    said = fields.get(b"reason", b"")
    suffix = f" ({printable(said)})" if said else ""
    if is_ok:
        for name, reason in _REFUSING.items():
            if name in fields:
                raise UnauthorizedLogin(f"refused by Dovecot: {reason}{suffix}")
        if not user:
            raise ServerUnavailable("it has sent OK without a user")
        return service_user(user, fields)
    code = fields.get(b"code", b"")
    if b"temp" in fields or code == b"temp_fail":
        raise ServerUnavailable(f"it reports a temporary failure{suffix}")
    reasons = [reason for name, reason in _REASONS.items() if name in fields or name == code]
    if code and not reasons:
        reasons = [printable(code)]
    raise UnauthorizedLogin(
        f"refused by Dovecot: {reasons[0] if reasons else 'unknown user or wrong password'}{suffix}"
    )
