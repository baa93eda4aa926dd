"""The header of the PROXY protocol, versions 1 and 2, by which a proxy reports its client.

The specification is https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt; sections in this
module are its sections.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

MAX_LINE = 107
"""Octets of the longest header of version 1, with CRLF (section 2.1)."""

_LINE_START = b"PROXY "
_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED = struct.Struct("!12sBBH")
_ADDRESS_TYPES: dict[str, type[IPv4Address] | type[IPv6Address]] = {
    "TCP4": IPv4Address,
    "TCP6": IPv6Address,
}
_PORT = re.compile("0|[1-9][0-9]{0,4}")
_INET, _INET6, _UNIX = 1, 2, 3
_ADDRESSES = {
    _INET: struct.Struct("!4s4sHH"),
    _INET6: struct.Struct("!16s16sHH"),
    _UNIX: struct.Struct("108s108s"),
}
_PP2_TYPE_CRC32C, _PP2_TYPE_SSL = 0x03, 0x20
_PP2_CLIENT_SSL = 0x01


class InvalidHeader(ValueError):
    """The octets are not a header; the message says why."""


@dataclass(frozen=True)
class ProxyHeader:
    """What a proxy reports.

    ``source`` is the client's IP address and port.  It is None if the proxy does not report one:
    the connection is the proxy's own, such as a health check, or the client has no IP address.
    ``over_tls`` tells whether the client is connected to the proxy by TLS.
    """

    source: tuple[str, int] | None = None
    over_tls: bool = False


def parse_header(data: bytes | bytearray) -> tuple[ProxyHeader, int] | None:
    """Parse the header that the octets begin with; return it and its length.

    Return None if more octets are needed.

    :raises InvalidHeader: they are not the beginning of a header.
    """
    if data[: len(_LINE_START)] == _LINE_START[: len(data)]:
        return _parse_line(data)
    if data[: len(_SIGNATURE)] == _SIGNATURE[: len(data)]:
        return _parse_binary(data)
    raise InvalidHeader("the connection does not begin with a PROXY header")


def _parse_line(data: bytes | bytearray) -> tuple[ProxyHeader, int] | None:
    """Parse a header of version 1 (section 2.1)."""
    end = data.find(b"\r\n", 0, MAX_LINE)
    if end < 0:
        if len(data) >= MAX_LINE:
            raise InvalidHeader("the PROXY line is too long")
        return None
    # Latin-1 decodes all octets; what is not ASCII is in no address and no port.
    protocol, *fields = data[len(_LINE_START) : end].decode("latin-1").split(" ")
    header = ProxyHeader()
    if protocol != "UNKNOWN":
        if protocol not in _ADDRESS_TYPES or len(fields) != 4:
            raise InvalidHeader("the PROXY line is not TCP4, TCP6 or UNKNOWN with its addresses")
        source, destination, source_port, destination_port = fields
        parsed = _address(protocol, source), _port(source_port)
        _address(protocol, destination)
        _port(destination_port)
        header = ProxyHeader(parsed)
    return header, end + len(b"\r\n")


def _address(protocol: str, text: str) -> str:
    """Return the canonical form of an address."""
    try:
        # The zone of an IPv6 address, after "%", has a meaning on one machine only.
        if "%" not in text:
            return _text(_ADDRESS_TYPES[protocol](text))
    except ValueError:
        pass
    raise InvalidHeader("the PROXY line has an invalid address")


def _text(address: IPv4Address | IPv6Address) -> str:
    """Return an address as text, an IPv4-mapped one as IPv4: proxies have one family a header."""
    return str(getattr(address, "ipv4_mapped", None) or address)


def _port(text: str) -> int:
    if _PORT.fullmatch(text) and int(text) <= 0xFFFF:
        return int(text)
    raise InvalidHeader("the PROXY line has an invalid port")


def _parse_binary(data: bytes | bytearray) -> tuple[ProxyHeader, int] | None:
    """Parse a header of version 2 (section 2.2)."""
    if len(data) < _FIXED.size:
        return None
    _, version_and_command, family_and_protocol, size = _FIXED.unpack_from(data)
    version, command = divmod(version_and_command, 16)
    family, protocol = divmod(family_and_protocol, 16)
    if version != 2 or command > 1:
        raise InvalidHeader(f"unknown version and command {version_and_command:#04x}")
    length = _FIXED.size + size
    is_local = command == 0
    if not is_local and (family > _UNIX or protocol > 2):
        raise InvalidHeader(f"unknown address family and protocol {family_and_protocol:#04x}")
    if len(data) < length:
        return None
    # A connection of the proxy's own: whatever follows is ignored.
    header = ProxyHeader() if is_local else _parse_block(bytes(data[:length]), family, protocol)
    return header, length


def _parse_block(header: bytes, family: int, protocol: int) -> ProxyHeader:
    """Parse what follows the fixed part of a header with the command PROXY."""
    if not family:
        try:
            return ProxyHeader(None, _is_over_tls(header, _FIXED.size))
        except InvalidHeader:
            # Senders may fill the place of an address that they do not know with anything.
            return ProxyHeader()
    addresses = _ADDRESSES[family]
    if len(header) < _FIXED.size + addresses.size:
        raise InvalidHeader("the header is shorter than its addresses")
    over_tls = _is_over_tls(header, _FIXED.size + addresses.size)
    if family == _UNIX or not protocol:
        return ProxyHeader(None, over_tls)
    packed, _, port, _ = addresses.unpack_from(header, _FIXED.size)
    address = IPv4Address(packed) if family == _INET else IPv6Address(packed)
    return ProxyHeader((_text(address), port), over_tls)


def _is_over_tls(header: bytes, start: int) -> bool:
    """Check the TLVs of a header, and return whether they say that the client uses TLS."""
    found: dict[int, tuple[int, int]] = {}
    for kind, begin, end in _tlvs(header, start, len(header)):
        # Each checksum is over the whole header: thousands of them would take minutes.
        if kind in found and kind in (_PP2_TYPE_CRC32C, _PP2_TYPE_SSL):
            raise InvalidHeader(f"the TLV {kind:#04x} occurs twice")
        found[kind] = begin, end
    if _PP2_TYPE_CRC32C in found:
        begin, end = found[_PP2_TYPE_CRC32C]
        expected = crc32c(header[:begin] + bytes(end - begin) + header[end:])
        if header[begin:end] != expected.to_bytes(4, "big"):
            raise InvalidHeader("the checksum is wrong")
    if _PP2_TYPE_SSL not in found:
        return False
    # struct pp2_tlv_ssl: client, verify, and TLVs of its own (section 2.2.6).
    begin, end = found[_PP2_TYPE_SSL]
    if end - begin < 5:
        raise InvalidHeader("the TLV PP2_TYPE_SSL is too short")
    for _ in _tlvs(header, begin + 5, end):
        pass
    return bool(header[begin] & _PP2_CLIENT_SSL)


def _tlvs(header: bytes, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Yield the type of each TLV, and where its value begins and ends."""
    while start < stop:
        begin = start + 3
        end = begin + int.from_bytes(header[start + 1 : begin], "big")
        if begin > stop or end > stop:
            raise InvalidHeader("a TLV is longer than the header")
        yield header[start], begin, end
        start = end


def _crc_table() -> tuple[int, ...]:
    table = list(range(256))
    for _ in range(8):
        table = [each >> 1 ^ (0x82F63B78 if each & 1 else 0) for each in table]
    return tuple(table)


_CRC_TABLE = _crc_table()


def crc32c(octets: bytes) -> int:
    """Return the CRC-32C of the octets (RFC 4960 appendix B)."""
    crc = 0xFFFFFFFF
    for octet in octets:
        crc = crc >> 8 ^ _CRC_TABLE[crc & 0xFF ^ octet]
    return crc ^ 0xFFFFFFFF
