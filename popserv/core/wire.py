"""Bytes to words and replies to bytes: RFC 1725 section 3 and nothing else.

Rules of this file:
 1. Nothing here waits, and nothing here knows a command, a session or a store.
 2. A message's *wire form* is its lines, each ended by CRLF: a bare LF becomes
    CRLF, CRLF stays, a lone CR is data, and a last line without end gets one.
 3. Octets are those of the wire form before dot-stuffing (RFC 1725 section 10),
    and :func:`count_octets` goes the same road as what is sent.
 4. Any bytes may come in chunks cut anywhere; the outcome never depends on where.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable, Iterable, Sequence
from enum import Enum
from typing import Any, NamedTuple, Protocol

from popserv.errors import BadCommand, POPError
from popserv.texts import ENGLISH, Counted, Language, Text

Chunk = bytes | Awaitable[bytes]
"""A piece of a body: there already, or to be waited for."""

Parse = Callable[["bytes | None"], "tuple[Any, ...]"]
"""From what follows the keyword (None if nothing does) to a command's arguments."""

MAX_LINE = 1024
"""The longest command line in octets, without its end; RFC 2449 section 4 asks for 255."""

MAX_SASL_LINE = 100_000
"""The longest answer to a SASL challenge, and AUTH command; a token of 64 KiB fits in base64."""


# Commands: words in


def split_line(line: bytes) -> tuple[bytes, bytes | None]:
    """Part a command line into its keyword, upper-cased, and the rest, untouched."""
    keyword, space, argument = line.partition(b" ")
    return keyword.upper(), argument if space else None


_CONTROL = re.compile(rb"[\x00-\x20\x7f]")


def word(text: bytes) -> bytes:
    """Accept any word without control characters, 8-bit names included."""
    if _CONTROL.search(text):
        raise BadCommand("control characters are not allowed")
    return text


# int() would take "+1", "0_1" and the digits of other scripts.
_NUMBER = re.compile(rb"[0-9]{1,10}")


def number(text: bytes) -> int:
    """Accept a decimal number of one to ten digits."""
    if not _NUMBER.fullmatch(text):
        raise BadCommand("number expected")
    return int(text)


def words(*kinds: Callable[[bytes], Any], least: int | None = None) -> Parse:
    """Build the parser of arguments parted by single spaces.

    ``kinds`` reads one argument each; ``least`` is how many must be there, all of them
    unless given.  One trailing space is tolerated, for old Outlook.
    """
    most = len(kinds)
    fewest = most if least is None else least

    def parse(argument: bytes | None) -> tuple[Any, ...]:
        if not argument:
            if fewest == 0:
                return ()
            given: Sequence[bytes] = ()
        else:
            given = argument.removesuffix(b" ").split(b" ")
            if b"" in given:
                raise BadCommand("separate arguments with single spaces")
        if not fewest <= len(given) <= most:
            raise BadCommand(_arity(fewest, most))
        return tuple(kind(text) for kind, text in zip(kinds, given, strict=False))

    return parse


nothing = words()


def _arity(least: int, most: int) -> Text:
    if most == 0:
        return Text("no argument allowed")
    if least == most:
        return Counted("%d argument expected", "%d arguments expected", most)
    return Counted("at most %d argument expected", "at most %d arguments expected", most)


def rest(argument: bytes | None) -> tuple[bytes]:
    """Take all that follows the keyword as one argument, spaces and all."""
    if not argument:
        raise BadCommand(_arity(1, 1))
    return (argument,)


def name_and_word(argument: bytes | None) -> tuple[bytes, bytes]:
    """Part at the last space, so that a name may hold spaces and a digest none."""
    name, _, last = (argument or b"").removesuffix(b" ").rpartition(b" ")
    if not name or not last:
        raise BadCommand(_arity(2, 2))
    return name, last


# Replies: one status line, and perhaps a body


class After(Enum):
    """What the connection does once a reply is out."""

    CONTINUE = "continue"
    CLOSE = "close"
    START_TLS = "start TLS"


class Framer(Protocol):
    """From a body's chunks to the lines of a multi-line response.

    ``done`` turns true when the rest of the body is not wanted.
    """

    @property
    def done(self) -> bool:
        """Whether the rest of the body is not wanted."""

    def feed(self, chunk: bytes) -> bytes:
        """Return the octets to send for this chunk."""

    def finish(self) -> bytes:
        """Return the octets that end the response, the terminator included."""


class Reply(NamedTuple):
    """A positive reply: status line, the body of a multi-line response, and what comes after.

    ``text`` is bytes where a program reads it, and a Text where a person does.
    """

    text: bytes | Text
    body: Iterable[Chunk] | None = None
    framer: Framer | None = None
    after: After = After.CONTINUE


def ok(text: bytes | Text, language: Language = ENGLISH) -> bytes:
    """Return the status line ``+OK text``, its text in this language."""
    if isinstance(text, Text):
        text = text.encoded(language)
    return b"+OK %b\r\n" % text


def err(error: POPError, language: Language = ENGLISH) -> bytes:
    """Return the status line ``-ERR [code] text``."""
    text = error.text.encoded(language)
    if error.code is None:
        return b"-ERR %b\r\n" % text
    return b"-ERR [%b] %b\r\n" % (error.code, text)


def challenge(octets: bytes) -> bytes:
    """Return the line that carries a SASL challenge (RFC 5034 section 4)."""
    return b"+ %b\r\n" % b64encode(octets)


def unbase64(text: bytes) -> bytes:
    """Return what was encoded by exactly this base64 text (RFC 4648 section 4).

    :raises ValueError: it is not base64, or not the one way to write it.
    """
    decoded = b64decode(text, validate=True)
    if b64encode(decoded) != text:
        # Stray bits at the end, and before Python 3.11 stray padding, pass b64decode.
        raise ValueError("not base64")
    return decoded


# Bodies: chunks in, dot-stuffed lines out

_HEADER = 256
"""Octets that nearly every header has."""


class LineEnds:
    """Bring every line end of a chunked text to a bare LF, and leave a lone CR alone.

    A CR at a chunk's edge is held until what follows it is known.
    """

    def __init__(self) -> None:
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """Return the text that is certain by now."""
        if self._held:
            chunk = self._held + chunk
            self._held = b""
        if b"\r" not in chunk:
            return chunk
        if chunk.endswith(b"\r"):
            self._held = b"\r"
            chunk = chunk[:-1]
        return chunk.replace(b"\r\n", b"\n")

    def finish(self) -> bytes:
        """Return what was held back."""
        held, self._held = self._held, b""
        return held


class OctetCounter:
    """Count the octets of a message's wire form, chunk by chunk.

    ``header_ends`` tells whether an empty line was among what was counted.
    """

    header_ends = False

    def __init__(self) -> None:
        self._ends = LineEnds()
        self._octets = 0
        self._ended = True

    def feed(self, chunk: bytes) -> None:
        """Count a chunk."""
        self._count(self._ends.feed(chunk))

    def finish(self) -> int:
        """Return the octets; a last line without end counts as ended."""
        self._count(self._ends.finish())
        return self._octets + (0 if self._ended else 2)

    def _count(self, text: bytes) -> None:
        if text:
            if not self.header_ends:
                at_start = self._ended and text.startswith(b"\n")
                self.header_ends = at_start or b"\n\n" in text
            self._octets += len(text) + text.count(b"\n")
            self._ended = text.endswith(b"\n")


def count_whole(text: bytes) -> tuple[int, bool]:
    """Return octets and ``header_ends``, as OctetCounter has them, of a message in one piece."""
    if 13 in text:
        text = text.replace(b"\r\n", b"\n")
    octets = len(text) + text.count(b"\n")
    if text and text[-1] != 10:
        octets += 2
    # Most headers are longer than this, and then less is searched.
    is_there = text.find(b"\n\n", _HEADER) >= 0 or b"\n\n" in text
    return octets, is_there or text.startswith(b"\n")


def count_octets(chunks: Iterable[bytes]) -> int:
    """Return the octets of a message's wire form."""
    counter = OctetCounter()
    for chunk in chunks:
        counter.feed(chunk)
    return counter.finish()


# A search for two octets by a method of bytes takes three times as long.
_DOT_LINE = re.compile(rb"\n\.")


class MessageFramer:
    """Send a message whole, as RETR does."""

    done = False

    def __init__(self) -> None:
        self._ends = LineEnds()
        self._at_line_start = True

    def feed(self, chunk: bytes) -> bytes:
        """See Framer."""
        return self._lines(self._ends.feed(chunk))

    def finish(self) -> bytes:
        """See Framer."""
        last = self._lines(self._ends.finish())
        if not self._at_line_start:
            last += b"\r\n"
        return last + b".\r\n"

    def _lines(self, text: bytes) -> bytes:
        if not text:
            return b""
        at_line_start, self._at_line_start = self._at_line_start, text.endswith(b"\n")
        if b"." in text:
            if at_line_start and text.startswith(b"."):
                text = b"." + text
            text = _DOT_LINE.sub(b"\n..", text)
        return text.replace(b"\n", b"\r\n")


class TopFramer(MessageFramer):
    """Send a message's header, the blank line, and the first ``lines`` lines of its body.

    RFC 1725 section 7: a message with fewer lines is sent whole.
    """

    def __init__(self, lines: int) -> None:
        super().__init__()
        self._wanted = lines
        self._in_header = True

    def _lines(self, text: bytes) -> bytes:
        return super()._lines(text[: self._cut(text)])

    def _cut(self, text: bytes) -> int:
        """Return how much of the text is wanted, and note where in the message it ends."""
        end = 0
        if self._in_header:
            end = self._header_end(text)
            if end < 0:
                return len(text)
            self._in_header = False
        there = text.count(b"\n", end) if self._wanted else 0
        if there < self._wanted:
            self._wanted -= there
            return len(text)
        for _ in range(self._wanted):
            end = text.index(b"\n", end) + 1
        self._wanted = 0
        self.done = True
        return end

    def _header_end(self, text: bytes) -> int:
        """Return the offset behind the blank line, or -1 if it is not in this text."""
        if self._at_line_start and text.startswith(b"\n"):
            return 1
        blank = text.find(b"\n\n")
        return blank if blank < 0 else blank + 2


class Filter(Protocol):
    """From a message's chunks to those of another form of it."""

    def feed(self, chunk: bytes) -> bytes:
        """Return what is certain by now."""

    def finish(self) -> bytes:
        """Return what was held back."""


class FilteredFramer:
    """Send what a filter makes of a message, as another framer does."""

    def __init__(self, filter_: Filter, framer: Framer) -> None:
        self._filter = filter_
        self._framer = framer

    @property
    def done(self) -> bool:
        """See Framer."""
        return self._framer.done

    def feed(self, chunk: bytes) -> bytes:
        """See Framer."""
        return self._framer.feed(self._filter.feed(chunk))

    def finish(self) -> bytes:
        """See Framer."""
        last = b"" if self.done else self._framer.feed(self._filter.finish())
        return last + self._framer.finish()


class ListingFramer:
    """Send chunks of lines that are in wire form already, as listings are."""

    done = False

    def feed(self, chunk: bytes) -> bytes:
        """See Framer."""
        return chunk

    def finish(self) -> bytes:
        """See Framer."""
        return b".\r\n"
