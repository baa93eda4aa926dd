"""The header of the PROXY protocol, against a naive parser of whole headers."""

import socket

from popserv.transports.proxy_header import InvalidHeader, parse_header
from tests.fuzz.target import Target
from tests.transports.test_proxy_header import INVALID, SIGNATURE, VALID, naive

_CHECKSUM = b"\3\0"
_KINDS = (0, 0x11, 0x12, 0x21, 0x22, 0x31, 0x32)
"""The families and protocols of version 2 that the naive parser knows."""


def parsed(data):
    """Return what the parser returns, or InvalidHeader if it raises that."""
    try:
        return parse_header(data)
    except InvalidHeader:
        return InvalidHeader


def check(data):
    """A header is what a naive parser says, and the same wherever it is cut."""
    result = parsed(data)
    for end in {len(data) // 2, len(data) - 1, len(data) - len(data) // 4} & {*range(len(data))}:
        at_cut = parsed(bytearray(data[:end]))
        # A part is incomplete, or has the result of the whole.
        assert at_cut is None or at_cut == result, (end, at_cut, result)
    is_binary = data.startswith(SIGNATURE)
    if is_binary and (len(data) < 16 or len(data) < 16 + int.from_bytes(data[14:16], "big")):
        assert result in (None, InvalidHeader)
        return
    if result is None or (is_binary and (_CHECKSUM in data or data[13] not in _KINDS)):
        return
    expected = naive(data)
    if result is InvalidHeader:
        assert expected is None, expected
        return
    assert expected is not None, result
    header, length = result
    source, over_tls, rest = expected
    assert (header.over_tls, data[length:]) == (over_tls, rest), result
    assert (header.source is None) == (source is None), result
    if source is not None:
        family = socket.AF_INET if "." in header.source[0] else socket.AF_INET6
        packed = socket.inet_pton(family, header.source[0])
        assert (source[0].removeprefix(bytes(10) + b"\xff\xff"), source[1]) == (
            packed,
            header.source[1],
        )


TARGET = Target(
    "proxy",
    check,
    tuple(each for each in (*(header for header, _ in VALID), *INVALID) if len(each) <= 300),
    (b"PROXY ", SIGNATURE, b"TCP4", b"TCP6", b"UNKNOWN", b"\r\n", b"::ffff:", b"\x20\0\5\1"),
    calls_per_octet=100,
)
