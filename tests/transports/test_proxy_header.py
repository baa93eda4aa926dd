"""The header of the PROXY protocol, compared with a naive parser and with Twisted's."""

import re
import socket
import struct
from ipaddress import ip_address

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.protocols.haproxy._v1parser import V1Parser
from twisted.protocols.haproxy._v2parser import V2Parser
from twisted.trial.unittest import SynchronousTestCase

from popserv.transports.proxy_header import InvalidHeader, ProxyHeader, crc32c, parse_header

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
CLIENT = ProxyHeader(("192.0.2.1", 56324))
CLIENT_TLS = ProxyHeader(("192.0.2.1", 56324), over_tls=True)
INET = struct.pack("!4s4sHH", bytes([192, 0, 2, 1]), bytes([192, 0, 2, 11]), 56324, 110)
INET6 = struct.pack(
    "!16s16sHH", socket.inet_pton(socket.AF_INET6, "2001:db8::1"), bytes(16), 1023, 110
)
MAPPED = struct.pack("!10xH4s16sHH", 0xFFFF, bytes([192, 0, 2, 1]), bytes(16), 56324, 110)
UNIX = b"/run/a".ljust(108, b"\0") + b"/run/b".ljust(108, b"\0")


def tlv(kind, value):
    """Return a TLV."""
    return struct.pack("!BH", kind, len(value)) + value


def binary(block=b"", *, first=0x21, second=0x11, size=None):
    """Return a header of version 2."""
    return (
        SIGNATURE
        + struct.pack("!BBH", first, second, len(block) if size is None else size)
        + (block)
    )


def with_checksum(block, *tlvs):
    """Return a header whose last TLV is its checksum."""
    header = binary(b"".join((block, *tlvs, tlv(3, bytes(4)))))
    return header[:-4] + crc32c(header).to_bytes(4, "big")


TLS_12 = tlv(0x20, b"\1\0\0\0\0" + tlv(0x21, b"TLSv1.2") + tlv(0x23, b"ECDHE-RSA-AES128-SHA"))
VALID = [
    (b"PROXY TCP4 192.0.2.1 192.0.2.11 56324 110\r\n", CLIENT),
    (b"PROXY TCP4 255.255.255.255 0.0.0.0 65535 0\r\n", ProxyHeader(("255.255.255.255", 65535))),
    (b"PROXY TCP6 2001:DB8:0::1 :: 1023 110\r\n", ProxyHeader(("2001:db8::1", 1023))),
    (b"PROXY TCP6" + b" ffff" + b":ffff" * 7 + b" ffff" + b":ffff" * 7 + b" 65535 65535\r\n", None),
    (b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:192.0.2.11 56324 110\r\n", CLIENT),
    (binary(MAPPED, second=0x21), CLIENT),
    (b"PROXY UNKNOWN\r\n", ProxyHeader()),
    (
        b"PROXY UNKNOWN" + b" ffff" + b":ffff" * 7 + b" ffff" + b":ffff" * 7 + b" 65535 65535\r\n",
        None,
    ),
    (b"PROXY UNKNOWN \0\xff\r \n\r\n", ProxyHeader()),
    (b"PROXY UNKNOWN TCP4 192.0.2.1 192.0.2.11 56324 110\r\n", ProxyHeader()),
    (binary(INET), CLIENT),
    (binary(INET, second=0x12), CLIENT),
    (binary(INET6, second=0x21), ProxyHeader(("2001:db8::1", 1023))),
    (binary(INET6, second=0x22), ProxyHeader(("2001:db8::1", 1023))),
    (binary(UNIX, second=0x31), ProxyHeader()),
    (binary(UNIX + TLS_12, second=0x32), ProxyHeader(None, over_tls=True)),
    (binary(second=0), ProxyHeader()),
    (binary(TLS_12, second=0), ProxyHeader(None, over_tls=True)),
    (binary(b"\xff" * 12, second=0), ProxyHeader()),
    (binary(INET, second=0x10), ProxyHeader()),
    (binary(second=1), ProxyHeader()),
    (binary(first=0x20, second=0), ProxyHeader()),
    (binary(INET + TLS_12, first=0x20), ProxyHeader()),
    (binary(b"\xff" * 600, first=0x20, second=0xFF), ProxyHeader()),
    (binary(INET + TLS_12), CLIENT_TLS),
    (binary(INET + tlv(0x20, b"\1\xff\xff\xff\xff")), CLIENT_TLS),
    (binary(INET + tlv(0x20, b"\7\0\0\0\0" + tlv(0x22, b"ann"))), CLIENT_TLS),
    (binary(INET + tlv(0x20, b"\6\0\0\0\0")), CLIENT),
    (binary(INET + tlv(0x20, bytes(5))), CLIENT),
    (binary(INET + tlv(1, b"pop3") + tlv(4, b"") * 9 + TLS_12 + tlv(0xEA, b"vpc")), CLIENT_TLS),
    (binary(INET + tlv(2, b"x" * 505)), CLIENT),
    (binary(INET + tlv(4, bytes(65535 - 15))), CLIENT),
    (with_checksum(INET), CLIENT),
    (with_checksum(INET, TLS_12, tlv(5, b"x" * 128)), CLIENT_TLS),
]
INVALID = [
    b"USER ann\r\n",
    b"\x16\x03\x01\0",
    b"PROXX",
    b"proxy tcp4",
    b"PROXY\tTCP4",
    b"\r\n\r\n\0\r\nQUIT\r",
    b"PROXY UNKNOWNS\r\n",
    b"PROXY \r\n",
    b"PROXY TCP5 192.0.2.1 192.0.2.1 1 1\r\n",
    b"PROXY TCP4\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.1 1\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.1 1 1 1\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.1 1 1 \r\n",
    b"PROXY TCP4  192.0.2.1 192.0.2.1 1 1\r\n",
    b"PROXY  TCP4 192.0.2.1 192.0.2.1 1 1\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.1 1 1\n\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.1 1 1\r\r\n",
    b"PROXY UNKNOWN " + b"x" * 93,
    b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.1 1 1" + b"\n" * 73,
    *(
        b"PROXY TCP4 %b 192.0.2.1 1 1\r\n" % address
        for address in (
            *(b"192.0.2.01", b"192.0.2", b"192.0.2.256", b"3221225985", b"0xC0.0.2.1", b"", b"::1"),
            *("١٩٢.0.2.1".encode(), b"192.0.2.1/24", b"localhost", b"\xb2.0.2.1", b"192.0.2.1\0"),
        )
    ),
    *(
        b"PROXY TCP6 %b ::1 1 1\r\n" % address
        for address in (b"::1%lo", b"::g", b"192.0.2.1", b"[::1]", b"1:2:3:4:5:6:7", b"::1::", b"")
    ),
    b"PROXY TCP4 192.0.2.1 192.0.2.01 1 1\r\n",
    *(
        b"PROXY TCP4 192.0.2.1 192.0.2.1 %b\r\n" % ports
        for ports in (
            *(b"65536 1", b"1 65536", b"01 1", b"1 00", b"-1 1", b"+1 1", b"1_0 1", b"x 1", b" 1"),
            *(b"1 ", "٣ 1".encode(), b"\xb2 1", b"99999999999 1"),
        )
    ),
    binary(INET, first=0x11),
    binary(INET, first=0x31),
    binary(INET, first=0x22),
    binary(INET, first=0x2F),
    binary(INET, second=0x41),
    binary(INET, second=0xF1),
    binary(INET, second=0x13),
    binary(INET, second=0x1F),
    binary(INET[:-1]),
    binary(INET6[:-1], second=0x21),
    binary(INET, second=0x21),
    binary(UNIX[:-1], second=0x31),
    binary(INET + b"\4"),
    binary(INET + b"\4\0"),
    binary(INET + tlv(4, b"xx")[:-1]),
    binary(INET + tlv(4, b"xx") + b"\4\xff\xff"),
    binary(INET + tlv(0x20, b"")),
    binary(INET + tlv(0x20, b"\1\0\0\0")),
    binary(INET + tlv(0x20, b"\1\0\0\0\0\x21")),
    binary(INET + tlv(0x20, b"\1\0\0\0\0" + tlv(0x21, b"TLS")[:-1]) + tlv(4, b"x")),
    binary(INET + TLS_12 + TLS_12),
    binary(INET + tlv(3, b"xxxx")),
    binary(INET + tlv(3, b"")),
    binary(INET + tlv(3, bytes(5))),
    with_checksum(INET, tlv(3, b"1234")),
    with_checksum(INET)[:20] + b"\0" + with_checksum(INET)[21:],
]


def naive(octets):
    """Return the source, whether there is TLS, and the rest; None if the header is invalid.

    It takes whole headers without checksums only.
    """
    number = rb"(?:0|[1-9][0-9]{0,4})"
    line = re.match(
        rb"PROXY (?:UNKNOWN(?: .*?)?|TCP([46]) (\S+) (\S+) (%b) (%b))\r\n" % (number, number),
        octets,
        re.DOTALL,
    )
    if line and line.end() <= 107:
        kind, source, destination, port, other_port = line.groups()
        if kind is None:
            return None, False, octets[line.end() :]
        family = socket.AF_INET if kind == b"4" else socket.AF_INET6
        try:
            packed = socket.inet_pton(family, source.decode("ascii"))
            socket.inet_pton(family, destination.decode("ascii"))
        except (OSError, UnicodeDecodeError, ValueError):
            return None
        if max(int(port), int(other_port)) > 65535:
            return None
        return (packed, int(port)), False, octets[line.end() :]
    if octets[:12] != SIGNATURE:
        return None
    length = 16 + octets[14] * 256 + octets[15]
    rest, block = octets[length:], octets[16:length]
    if octets[12] == 0x20:
        return None, False, rest
    if octets[12] != 0x21 or octets[13] not in (0, 0x11, 0x12, 0x21, 0x22, 0x31, 0x32):
        return None
    size = {0: 0, 1: 4, 2: 16, 3: 108}[octets[13] >> 4]
    ports = 4 if octets[13] >> 4 in (1, 2) else 0
    if len(block) < 2 * size + ports:
        return None
    source = None
    if ports:
        port = block[2 * size] * 256 + block[2 * size + 1]
        source = block[:size], port
    tlvs = tlvs_of(block[2 * size + ports :])
    if tlvs is None:
        return (None, False, rest) if octets[13] == 0 else None
    ssl = [value for kind, value in tlvs if kind == 0x20]
    if len(ssl) > 1 or any(len(value) < 5 or tlvs_of(value[5:]) is None for value in ssl):
        return (None, False, rest) if octets[13] == 0 else None
    return source, bool(ssl and ssl[0][0] & 1), rest


def tlvs_of(octets):
    """Return the types and values of TLVs; None if they are damaged."""
    found = []
    while octets:
        if len(octets) < 3 or len(octets) < 3 + octets[1] * 256 + octets[2]:
            return None
        size = octets[1] * 256 + octets[2]
        found.append((octets[0], octets[3 : 3 + size]))
        octets = octets[3 + size :]
    return found


def feed(octets, *cuts):
    """Parse octets that arrive in pieces; return what the parser returns at the end."""
    parsed = None
    for end in (*sorted(cuts), len(octets)):
        if parsed is None:
            parsed = parse_header(bytearray(octets[:end]))
    return parsed


VALUES = st.binary(max_size=8)
KINDS = st.sampled_from([1, 2, 4, 5, 0x20, 0x30, 0xE0, 0xFF])
TLVS = st.lists(
    st.builds(tlv, KINDS, VALUES | st.builds(lambda sub: b"\1\0\0\0\0" + sub, VALUES)), max_size=4
).map(b"".join)
BLOCKS = st.sampled_from([(0x11, INET), (0x12, INET), (0x22, INET6), (0x31, UNIX), (0, b"")])
BINARIES = st.builds(
    lambda block, tlvs, first: binary(block[1] + tlvs, first=first, second=block[0]),
    *(BLOCKS, TLVS, st.sampled_from([0x20, 0x21])),
)
TEXTS = st.one_of(
    *(st.ip_addresses(v=version).map(str) for version in (4, 6)),
    st.sampled_from(["192.0.2.01", "::1%lo", "", "::ffff:192.0.2.1", "1.2.3"]),
)
PORTS = st.integers(0, 70000).map(str) | st.sampled_from(["", "01", "00", "+1", "x"])
LINES = st.builds(
    lambda *fields: " ".join(("PROXY", *fields)).encode() + b"\r\n",
    *(st.sampled_from(["TCP4", "TCP6", "UNKNOWN", "TCP"]), TEXTS, TEXTS, PORTS, PORTS),
)


class HeaderTests(SynchronousTestCase):
    """parse_header."""

    def test_valid(self):
        """A header gives source and TLS, wherever it is cut, and ends where its length says."""
        for header, expected in VALID:
            cuts = [range(1, len(header)), [], *([cut] for cut in range(1, min(len(header), 600)))]
            if len(header) > 1000:
                cuts = [[1, 12, 16, len(header) - 1]]
            for each in cuts:
                parsed, length = feed(header + b"NOOP\r\n", *each)
                self.assertEqual(length, len(header))
                if expected is not None:
                    self.assertEqual(parsed, expected, header)

    def test_incomplete(self):
        """Of a part of a header nothing is said, except that it is a part."""
        for header, _ in VALID:
            for end in (*range(min(len(header), 600)), len(header) - 1):
                self.assertIsNone(parse_header(header[:end]), header[:end])

    def test_invalid(self):
        """What is not exactly a header is rejected, wherever it is cut."""
        for octets in INVALID:
            with self.assertRaises(InvalidHeader, msg=octets):
                parse_header(octets)
            with self.assertRaises(InvalidHeader, msg=octets):
                feed(octets, *range(len(octets)))

    def test_longest(self):
        """A header of version 2 has up to 65,551 octets, whatever fills it."""
        for block in (INET + tlv(0xE0, bytes(65520)), INET + tlv(4, b"") * 21841):
            header = binary(block)
            self.assertEqual(len(header), 65551)
            self.assertIsNone(parse_header(header[:-1]))
            self.assertEqual(parse_header(header + b"x"), (CLIENT, len(header)))

    def test_checksum(self):
        """The checksum is CRC-32C, with the values of RFC 3720 appendix B.4."""
        for octets, expected in [
            (bytes(32), 0x8A9136AA),
            (b"\xff" * 32, 0x62A8AB43),
            (bytes(range(32)), 0x46DD794E),
            (bytes(range(31, -1, -1)), 0x113FDB5C),
            (b"123456789", 0xE3069283),
        ]:
            self.assertEqual(crc32c(octets), expected)

    @given(st.data(), LINES | BINARIES, st.binary(max_size=4))
    @example(None, b"PROXY TCP6 ::ffff:192.0.2.1 :: 1 1\r\n", b"")
    def test_naive(self, data, header, rest):
        """A naive parser of whole headers finds the same, also in damaged ones."""
        octets = bytearray(header + rest)
        if data is not None and data.draw(st.booleans()):
            where = data.draw(st.integers(0, len(header) - 1))
            octets[where] = data.draw(st.integers(0, 255))
        octets = bytes(octets)
        # The length may be damaged, and version 2 is read to its end only.
        octets = octets.ljust(70000, b"\n") if octets[:12] == SIGNATURE else octets + b"\n" * 107
        expected = naive(octets)
        if octets[12] == 0x21 and octets[:12] == SIGNATURE and octets[13] in (1, 2, 16, 32, 48):
            # One of family and protocol unspecified: no address.
            expected = None
        elif expected is None:
            with self.assertRaises(InvalidHeader):
                feed(octets, *range(min(len(octets), 300)))
        if expected is None:
            return
        parsed, length = feed(octets, *range(min(len(octets), 300)))
        source, over_tls, after = expected
        if source is not None:
            packed, port = source
            # An IPv4-mapped address is one of IPv4.
            packed = packed.removeprefix(bytes(10) + b"\xff\xff") if len(packed) == 16 else packed
            family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
            self.assertEqual(socket.inet_pton(family, parsed.source[0]), packed)
            self.assertEqual(parsed.source[1], port)
        self.assertEqual((parsed.source is None, parsed.over_tls), (source is None, over_tls))
        self.assertEqual(octets[length:], after)

    @given(
        st.sampled_from([4, 6]).flatmap(lambda v: st.tuples(*[st.ip_addresses(v=v)] * 2)),
        st.integers(0, 65535),
        st.integers(0, 65535),
    )
    def test_twisted(self, addresses, port, other_port):
        """Twisted's parsers find the same address and port of a TCP client."""
        source, destination = addresses
        line = f"PROXY TCP{source.version} {source} {destination} {port} {other_port}\r\n".encode()
        ports = struct.pack("!HH", port, other_port)
        second = 0x11 if source.version == 4 else 0x21
        header = binary(source.packed + destination.packed + ports, second=second)
        for octets, parser in ((line, V1Parser()), (header, V2Parser())):
            info, rest = parser.feed(octets + b"x")
            parsed, length = parse_header(octets + b"x")
            host, number = parsed.source
            theirs = info.source.host
            theirs = ip_address(theirs.decode() if isinstance(theirs, bytes) else theirs)
            self.assertEqual(ip_address(host), getattr(theirs, "ipv4_mapped", None) or theirs)
            self.assertEqual((number, rest, length), (info.source.port, b"x", len(octets)))

    @given(st.binary(max_size=40) | st.binary(max_size=40).map(lambda tail: b"PROXY " + tail))
    def test_garbage(self, octets):
        """No octets raise anything but InvalidHeader."""
        for header in (octets, SIGNATURE + octets, binary(INET)[:14] + octets):
            try:
                parsed = parse_header(header)
            except InvalidHeader:
                continue
            self.assertTrue(parsed is None or parsed[1] <= len(header))
