"""popserv.delivery.addresses: the arguments of MAIL and RCPT."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.delivery.addresses import MAX_PATH, Address, InvalidArgument, parse_argument


class ParseTests(SynchronousTestCase):
    """parse_argument."""

    def test_valid(self):
        """Addresses have their parts, without quoting and source routes."""
        for argument, expected in (
            (b"FROM:<>", (b"", b"", b"")),
            (b"from: <ann@example.org>", (b"ann@example.org", b"ann", b"example.org")),
            (b"FROM:<Postmaster>", (b"Postmaster", b"Postmaster", b"")),
            (b"FROM:<@a,@b:ann@c>", (b"ann@c", b"ann", b"c")),
            (b"FROM:<ann@[192.0.2.1]>", (b"ann@[192.0.2.1]", b"ann", b"[192.0.2.1]")),
            (b'FROM:<"a> \\"b"@c>', (b'"a> \\"b"@c', b'a> "b', b"c")),
            (
                b"FROM:<\xc3\xa9@\xc3\xa9.org>",
                (b"\xc3\xa9@\xc3\xa9.org", b"\xc3\xa9", b"\xc3\xa9.org"),
            ),
            (b"FROM:<ann+x=y@c>", (b"ann+x=y@c", b"ann+x=y", b"c")),
        ):
            self.assertEqual(parse_argument(b"FROM", argument), (Address(*expected), {}))

    def test_parameters(self):
        """Parameters have names in upper case, and values or none."""
        _, parameters = parse_argument(b"TO", b"TO:<ann>  size=5 SMTPUTF8 X-a=b:c ")
        self.assertEqual(parameters, {b"SIZE": b"5", b"SMTPUTF8": b"", b"X-A": b"b:c"})

    def test_invalid(self):
        """Everything else is refused."""
        for argument in (
            *(b"", b"TO", b"TO:", b"TO:ann", b"TO:<ann", b"TO:ann>", b"FROM:<ann>", b"TO:  <ann>"),
            *(b"TO:<@b>", b"TO:<ann@>", b"TO:<a b>", b"TO:<a\tb>", b"TO:<a\nb>", b"TO:<a\0b>"),
            *(b"TO:<a@b@c>", b"TO:<a@b>x", b"TO:<a@b> =", b"TO:<a@b> a=", b"TO:<<a@b>>"),
            *(b'TO:<"a@b>', b'TO:<"a"b@c>', b'TO:<"a\nb"@c>', b"TO:<a,b@c>", b"TO:<a@[b>"),
            b"TO:<%b>" % (b"x" * MAX_PATH),
        ):
            self.assertRaises(InvalidArgument, parse_argument, b"TO", argument)

    def test_longest(self):
        """A path may have MAX_PATH octets, with its angle brackets."""
        longest = b"x" * (MAX_PATH - 2)
        address, _ = parse_argument(b"TO", b"TO:<%b> SIZE=5" % longest)
        self.assertEqual(address.text, longest)
        self.assertRaises(InvalidArgument, parse_argument, b"TO", b"TO:<%bx>" % longest)

    @given(st.binary(max_size=30))
    def test_nothing_escapes(self, octets):
        """An address contains no angle bracket outside of quotes, no line end and no NUL."""
        try:
            address, _ = parse_argument(b"TO", b"TO:<%b>" % octets)
        except InvalidArgument:
            return
        self.assertFalse({0, 10, 13} & set(address.text))
        if b'"' not in address.text:
            self.assertFalse(set(b"<> ") & set(address.text))
