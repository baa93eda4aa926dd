"""The grammar and the framing, against naive oracles and at every split."""

from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.core import wire
from popserv.errors import BadCommand, POPError
from popserv.testing import ODD_MESSAGES, naive_octets

# Mostly what matters to framing, so that short examples hit the edges.
texts = st.lists(
    st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"\n.", b"\n\n", b"a", b"\0", b"\xff"])
    | st.binary(max_size=3),
    max_size=30,
).map(b"".join)


@st.composite
def chunked(draw):
    """A text and the same text cut into chunks anywhere, empty ones included."""
    text = draw(texts)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    edges = [0, *cuts, len(text)]
    return text, [text[a:b] for a, b in pairwise(edges)]


def framed(framer, chunks):
    """What a framer sends for these chunks."""
    out = []
    for chunk in chunks:
        if framer.done:
            break
        out.append(framer.feed(chunk))
    return b"".join(out) + framer.finish()


def naive_lines(message):
    """A message's lines, found in the plainest way."""
    lines = message.replace(b"\r\n", b"\n").split(b"\n")
    return lines[:-1] if lines[-1] == b"" else lines


def naive_response(lines):
    """The lines as a multi-line response (RFC 1725 section 3)."""
    stuffed = [b"." + line if line.startswith(b".") else line for line in lines]
    return b"".join(line + b"\r\n" for line in [*stuffed, b"."])


def naive_top(message, wanted):
    """The lines that TOP sends (RFC 1725 section 7)."""
    lines = naive_lines(message)
    if b"" not in lines:
        return lines
    body = lines.index(b"") + 1
    return lines[: body + wanted]


def unstuffed(response):
    """What a client makes of a multi-line response, by RFC 1725 section 3's words."""
    lines = []
    for line in response.split(b"\r\n"):
        if line == b".":
            return lines
        lines.append(line.removeprefix(b"."))
    raise AssertionError("no termination")


class FramingTests(SynchronousTestCase):
    """RFC 1725 sections 3, 7 and 10."""

    @given(chunked())
    def test_message(self, case):
        """A message is sent by the plain rules, wherever its chunks are cut."""
        text, chunks = case
        sent = framed(wire.MessageFramer(), chunks)
        self.assertEqual(sent, naive_response(naive_lines(text)))

    @given(texts)
    def test_client_gets_the_lines(self, text):
        """A client that undoes the framing has the message's lines, and nothing is left over."""
        sent = framed(wire.MessageFramer(), [text])
        self.assertEqual(unstuffed(sent), naive_lines(text))
        self.assertEqual(sent.find(b"\r\n.\r\n", 0, -1), -1)

    @given(chunked())
    def test_octets(self, case):
        """The octets counted are those that are sent, less stuffing and termination."""
        text, chunks = case
        octets = wire.count_octets(chunks)
        self.assertEqual(octets, naive_octets(text))
        lines = unstuffed(framed(wire.MessageFramer(), [text]))
        self.assertEqual(octets, sum(len(line) + 2 for line in lines))

    @given(chunked(), st.integers(0, 12))
    @example((b"a: b\n\n1\n2\n", [b"a: b\n", b"\n1", b"\n2\n"]), 1)
    def test_top(self, case, wanted):
        """TOP sends the header, the blank line and so many lines of the body."""
        text, chunks = case
        sent = framed(wire.TopFramer(wanted), chunks)
        self.assertEqual(sent, naive_response(naive_top(text, wanted)))

    def test_every_split_of_odd_messages(self):
        """Two chunks, cut at every point, give what one chunk gives."""
        for text in (message[:400] for message in ODD_MESSAGES):
            for make in (wire.MessageFramer, lambda: wire.TopFramer(1)):
                whole = framed(make(), [text])
                for cut in range(len(text) + 1):
                    self.assertEqual(framed(make(), [text[:cut], text[cut:]]), whole)

    def test_top_reads_no_further(self):
        """Once TOP has its lines, the rest of the message is not wanted."""
        framer = wire.TopFramer(0)
        self.assertEqual(framer.feed(b"a: b\n\nbody\nmore"), b"a: b\r\n\r\n")
        self.assertTrue(framer.done)

    def test_listing(self):
        """Listings are lines in wire form already."""
        self.assertEqual(framed(wire.ListingFramer(), [b"1 2\r\n", b""]), b"1 2\r\n.\r\n")

    def test_empty_message(self):
        """A message without a byte has no line and no octet."""
        self.assertEqual(framed(wire.MessageFramer(), []), b".\r\n")
        self.assertEqual(wire.count_octets([]), 0)

    @given(texts, st.binary(max_size=300))
    def test_count_whole(self, text, more):
        """A message counted in one piece has the octets, and the end of a header, of any pieces."""
        for whole in (text, text + more, more + text, b"x" * 250 + text):
            counter = wire.OctetCounter()
            for at in range(len(whole)):
                counter.feed(whole[at : at + 1])
            octets = counter.finish()
            self.assertEqual(wire.count_whole(whole), (octets, counter.header_ends))
            self.assertEqual(octets, naive_octets(whole))


class GrammarTests(SynchronousTestCase):
    """RFC 1725 section 3: keywords and arguments."""

    def test_split_line(self):
        """A keyword counts in any case; what follows the first space is untouched."""
        for line, parted in [
            (b"noop", (b"NOOP", None)),
            (b"List 2", (b"LIST", b"2")),
            (b"PASS  a b ", (b"PASS", b" a b ")),
            (b"STAT ", (b"STAT", b"")),
            (b"", (b"", None)),
            (b" NOOP", (b"", b"NOOP")),
            (b"\xffLIST\0", (b"\xffLIST\0", None)),
        ]:
            self.assertEqual(wire.split_line(line), parted)

    @given(st.binary())
    def test_number(self, text):
        """A number is one to ten decimal digits, and nothing that int() takes beside."""
        naive = text and len(text) <= 10 and all(digit in b"0123456789" for digit in text)
        if naive:
            self.assertEqual(wire.number(text), int(text))
        else:
            self.assertRaises(BadCommand, wire.number, text)

    def test_number_is_not_int(self):
        """Signs, underscores, spaces and other scripts' digits are no numbers."""
        for text in (b"+1", b"-1", b"0_1", b" 1", b"1 ", b"1\n", "\u0661".encode(), b"0x1", b"1e1"):
            self.assertRaises(BadCommand, wire.number, text)
        self.assertEqual(wire.number(b"0012"), 12)

    def test_words(self):
        """Arguments are parted by single spaces; one space at the end is let pass."""
        parse = wire.words(wire.number, wire.word)
        self.assertEqual(parse(b"1 x"), (1, b"x"))
        self.assertEqual(parse(b"1 x "), (1, b"x"))
        for wrong in (None, b"", b" ", b"1", b" 1 x", b"1  x", b"1 x  ", b"1 x y", b"x 1", b"1 \t"):
            self.assertRaises(BadCommand, parse, wrong)

    def test_optional_words(self):
        """Arguments that may be left out are left out or given whole."""
        parse = wire.words(wire.number, least=0)
        for argument, parsed in [(None, ()), (b"", ()), (b"1", (1,)), (b"1 ", (1,))]:
            self.assertEqual(parse(argument), parsed)
        for wrong in (b" ", b" 1", b"1  ", b"1 2", b"x"):
            self.assertRaises(BadCommand, parse, wrong)

    def test_nothing(self):
        """A command without arguments takes a trailing space and no more."""
        self.assertEqual(wire.nothing(None), ())
        self.assertEqual(wire.nothing(b""), ())
        self.assertRaises(BadCommand, wire.nothing, b"x")
        self.assertRaises(BadCommand, wire.nothing, b" ")

    @given(st.none() | st.binary())
    def test_words_never_fail_otherwise(self, argument):
        """Any argument at all is parsed or refused."""
        for parse in (
            wire.nothing,
            wire.rest,
            wire.name_and_word,
            wire.words(wire.word),
            wire.words(wire.number, wire.number, least=0),
        ):
            try:
                self.assertIsInstance(parse(argument), tuple)
            except BadCommand as refusal:
                self.assertTrue(str(refusal).isascii())

    def test_rest(self):
        """PASS takes all that follows, spaces and all (RFC 1725 section 4)."""
        self.assertEqual(wire.rest(b" two words "), (b" two words ",))
        self.assertRaises(BadCommand, wire.rest, None)
        self.assertRaises(BadCommand, wire.rest, b"")

    def test_name_and_word(self):
        """APOP's digest is what follows the last space."""
        self.assertEqual(wire.name_and_word(b"a b c "), (b"a b", b"c"))
        for wrong in (None, b"", b"a", b"a ", b" a", b"a  "):
            self.assertRaises(BadCommand, wire.name_and_word, wrong)

    def test_word(self):
        """A word has no control characters, but may have others than ASCII's."""
        self.assertEqual(wire.word("j\xf6rg".encode()), "j\xf6rg".encode())
        for wrong in (b"a\0", b"\x7f", b"a\tb", b"\x1b["):
            self.assertRaises(BadCommand, wire.word, wrong)


class StatusLineTests(SynchronousTestCase):
    """RFC 1725 section 3: status indicators; RFC 2449 section 8: response codes."""

    def test_status_lines(self):
        """A reply is a status indicator, a code in brackets if there is one, and text."""
        self.assertEqual(wire.ok(b"2 320"), b"+OK 2 320\r\n")
        self.assertEqual(wire.err(POPError("no")), b"-ERR no\r\n")
        self.assertEqual(wire.err(POPError("no", code=b"SYS/TEMP")), b"-ERR [SYS/TEMP] no\r\n")
