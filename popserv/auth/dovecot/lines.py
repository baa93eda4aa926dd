"""The lines of Dovecot's auth client protocol, version 1.

A line is a command and parameters, separated by tabs; a parameter is ``name`` or ``name=value``.
Octets that would end a parameter are escaped with the octet 1.  Dovecot's documentation is at
https://doc.dovecot.org/2.4.0/developers/design/auth_protocol.html.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import NamedTuple

from popserv.core.connection_details import ConnectionDetails

_ESCAPES = {b"\0": b"\x010", b"\x01": b"\x011", b"\t": b"\x01t", b"\r": b"\x01r", b"\n": b"\x01n"}
_UNESCAPES = {escape: octet for octet, escape in _ESCAPES.items()}
_SPECIAL = re.compile(rb"[\x00\x01\t\r\n]")
_ESCAPE = re.compile(rb"\x01(.)", re.DOTALL)

VERSION = b"VERSION\t1\t1"


class ProtocolError(Exception):
    """Dovecot has sent something that its protocol does not permit."""


class Reply(NamedTuple):
    """Dovecot's reply to a request.

    ``kind`` is ``OK``, ``FAIL`` or ``CONT``.  ``fields`` are the parameters of OK and FAIL; one
    without a value is empty.  ``challenge`` is that of CONT, or the data that follow success.
    """

    kind: bytes
    fields: Mapping[bytes, bytes]
    challenge: bytes | None = None


def escape(value: bytes) -> bytes:
    """Return a value as it is written in a line."""
    return _SPECIAL.sub(lambda match: _ESCAPES[match[0]], value)


def unescape(value: bytes) -> bytes:
    """Return the value that is written in a line; any other octet that is escaped is itself."""
    return _ESCAPE.sub(lambda match: _UNESCAPES.get(match[0], match[1]), value)


def auth_line(
    request: int, mechanism: bytes, details: ConnectionDetails, initial: bytes | None
) -> bytes:
    """Return the line that begins a request.

    ``nologin`` tells Dovecot that no other process will ask for the user's data afterwards.
    """
    parameters = [b"AUTH", b"%d" % request, mechanism, b"service=pop3"]
    if details.is_private:
        parameters.append(b"secured=tls" if details.uses_tls else b"secured")
    for prefix, end in ((b"r", details.remote), (b"l", details.local)):
        if end is not None:
            parameters.append(prefix + b"ip=" + escape(_address(end[0])))
            parameters.append(prefix + b"port=%d" % end[1])
    parameters.append(b"nologin")
    if initial is not None:
        # Dovecot regards what follows as a part of the response.
        parameters.append(b"resp=" + b64encode(initial))
    return b"\t".join(parameters)


def continue_line(request: int, response: bytes) -> bytes:
    """Return the line with the client's response to a challenge."""
    return b"CONT\t%d\t%b" % (request, b64encode(response))


def _address(host: str) -> bytes:
    """Return an IP address in the form that Dovecot compares with networks."""
    if "." in host:
        host = host.removeprefix("::ffff:")
    return host.partition("%")[0].encode("ascii", "replace")


def parse_reply(kind: bytes, parameters: list[bytes]) -> tuple[int, Reply]:
    """Return the number of a request, and the reply to it.

    :raises ProtocolError: the line is malformed.
    """
    number = parse_number(parameters)
    if kind == b"CONT":
        return number, Reply(kind, {}, _decode(parameters[1] if len(parameters) > 1 else b""))
    fields: dict[bytes, bytes] = {}
    for parameter in parameters[1:]:
        name, _, value = parameter.partition(b"=")
        # The first one counts, so that none can be overridden by what follows it.
        fields.setdefault(unescape(name), unescape(value))
    data = fields.pop(b"resp", None)
    return number, Reply(kind, fields, None if data is None else _decode(data))


def parse_number(parameters: list[bytes]) -> int:
    """Return the number that is the first of the parameters.

    :raises ProtocolError: there is none.
    """
    if not parameters or not re.fullmatch(rb"[0-9]{1,10}", parameters[0]):
        raise ProtocolError("a number was expected")
    return int(parameters[0])


def _decode(text: bytes) -> bytes:
    try:
        return b64decode(text, validate=True)
    except ValueError:
        raise ProtocolError("base64 was expected") from None
