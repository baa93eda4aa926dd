"""The arguments of MAIL and RCPT: paths and parameters (RFC 5321 section 4.1.2, RFC 6531)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

_LOCAL_PART = rb'"(?:[^"\\\x00-\x1f\x7f]|\\[\x20-\x7e])*"|[^\x00-\x20\x7f<>()\[\]\\,;:@"]+'
_DOMAIN = rb"[^\x00-\x20\x7f<>()\[\]\\,;:@\"]+|\[[\x21-\x5a\x5e-\x7e]+\]"
# The source route before the colon is ignored, as RFC 5321 section 4.1.1.3 requires.
_PATH = re.compile(
    rb"<(?:@[^<>\s:]+:)?(?P<address>(?P<local>%b)(?:@(?P<domain>%b))?)?>" % (_LOCAL_PART, _DOMAIN)
)
_ARGUMENT = re.compile(rb"(FROM|TO): ?(<.*>)((?: +[^ ]+)*) *", re.IGNORECASE | re.DOTALL)
_PARAMETER = re.compile(rb"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([\x21-\x3c\x3e-\x7e]+))?")
_QUOTED = re.compile(rb"\\(.)", re.DOTALL)

MAX_PATH = 512
"""The maximum octets of a path; RFC 5321 section 4.5.3.1.3 requires 256."""


class InvalidArgument(Exception):
    """The argument of MAIL or RCPT has not the form that it must have."""


class Address(NamedTuple):
    """A mailbox: as it was sent, without angle brackets, and its parts without quoting.

    All are empty in the null reverse-path, and ``domain`` in an address without one.
    """

    text: bytes
    local_part: bytes
    domain: bytes


def parse_argument(keyword: bytes, argument: bytes) -> tuple[Address, Mapping[bytes, bytes]]:
    """Return the address in ``FROM:<...>`` or ``TO:<...>``, and the parameters behind it.

    The names of parameters are in upper case, and one without a value has an empty one.

    :raises InvalidArgument: it is neither.
    """
    parts = _ARGUMENT.fullmatch(argument)
    if parts is None or parts[1].upper() != keyword:
        raise InvalidArgument
    path = _PATH.fullmatch(parts[2])
    if path is None or len(parts[2]) > MAX_PATH:
        raise InvalidArgument
    parameters = {}
    for word in parts[3].split():
        parameter = _PARAMETER.fullmatch(word)
        if parameter is None:
            raise InvalidArgument
        parameters[parameter[1].upper()] = parameter[2] or b""
    local_part = path["local"] or b""
    if local_part.startswith(b'"'):
        local_part = _QUOTED.sub(rb"\1", local_part[1:-1])
    return Address(path["address"] or b"", local_part, path["domain"] or b""), parameters
