"""Parses command lines and their arguments (RFC 1725 section 3).

These are plain functions of octets.  They depend on no command, session or store.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Any

from popserv.errors import BadCommand
from popserv.runtime.speedups import speedup
from popserv.texts import Counted, Text

ArgumentParser = Callable[["bytes | None"], "tuple[Any, ...]"]
"""Converts the text after the keyword, None if there is none, to the arguments of a command.

It raises :exc:`~popserv.errors.BadCommand` if they are invalid.
"""

MAX_LINE = 1024
"""The maximum octets of a command line, without its line end; RFC 2449 section 4 requires 255."""

MAX_SASL_LINE = 100_000
"""The maximum octets of a SASL response or an AUTH command; a 64 KiB token in base64 fits."""


@speedup
def split_line(line: bytes) -> tuple[bytes, bytes | None]:
    """Split a command line at the first space: keyword in upper case, and the rest unchanged.

    A CR at its end is part of the line end.
    """
    keyword, space, argument = line.removesuffix(b"\r").partition(b" ")
    return keyword.upper(), argument if space else None


_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_CONTROL_OR_SPACE = re.compile(rb"[\x00-\x20\x7f]")

_NO_CONTROL = Text("control characters are not allowed")


def word(text: bytes) -> bytes:
    """Accept a word without control characters; 8-bit characters are allowed.

    :raises BadCommand: the word contains a control character.
    """
    if _CONTROL_OR_SPACE.search(text):
        raise BadCommand(_NO_CONTROL)
    return text


_MAX_DIGITS = 10


def number(text: bytes) -> int:
    """Accept a decimal number of one to ten digits.

    :raises BadCommand: the text is not such a number.
    """
    # int() accepts "+1", "0_1" and the digits of other scripts.
    if len(text) > _MAX_DIGITS or not text.isdigit():
        raise BadCommand("number expected")
    return int(text)


def arguments(*parsers: Callable[[bytes], Any], minimum: int | None = None) -> ArgumentParser:
    """Return a parser of up to two arguments that are separated by a single space.

    Each of ``parsers`` parses one argument, as :func:`word` and :func:`number` do.  ``minimum``
    is the number of arguments that are required; the default is all.  One trailing space is
    accepted, for old versions of Outlook.

    :raises ValueError: there are more than two parsers.
    """
    if len(parsers) > 2:
        raise ValueError("a command has two arguments at most")
    max_count = len(parsers)
    min_count = max_count if minimum is None else minimum

    def parse(argument: bytes | None) -> tuple[Any, ...]:
        texts = argument.removesuffix(b" ").split(b" ") if argument else ()
        if b"" in texts:
            raise BadCommand("separate arguments with single spaces")
        if not min_count <= len(texts) <= max_count:
            raise BadCommand(_count_expected(min_count, max_count))
        # This runs for every command with arguments; a loop would take twice as long.
        if len(texts) == 2:
            return parsers[0](texts[0]), parsers[1](texts[1])
        return (parsers[0](texts[0]),) if texts else ()

    return parse


no_arguments = arguments()
"""The parser for commands without arguments."""


def _count_expected(min_count: int, max_count: int) -> Text:
    if max_count == 0:
        return Text("no argument allowed")
    if min_count == max_count:
        return Counted("%d argument expected", "%d arguments expected", max_count)
    return Counted("at most %d argument expected", "at most %d arguments expected", max_count)


def rest_of_line(argument: bytes | None) -> tuple[bytes]:
    """Accept the whole text after the keyword as one argument, spaces included.

    :raises BadCommand: there is no text.
    """
    if not argument:
        raise BadCommand(_count_expected(1, 1))
    return (argument,)


def name_and_digest(argument: bytes | None) -> tuple[bytes, bytes]:
    """Accept a name and a digest, split at the last space: a name may contain spaces.

    :raises BadCommand: the name or the digest is missing, or the name contains a control character.
    """
    name, _, digest = (argument or b"").removesuffix(b" ").rpartition(b" ")
    if not name or not digest:
        raise BadCommand(_count_expected(2, 2))
    if _CONTROL.search(name):
        raise BadCommand(_NO_CONTROL)
    return name, digest


def decode_base64(text: bytes) -> bytes:
    """Decode base64 in its canonical form only (RFC 4648 sections 3.5 and 4).

    :raises ValueError: the text is not base64, or not in its canonical form.
    """
    decoded = b64decode(text)
    if b64encode(decoded) != text:
        # b64decode ignores other characters and stray bits, and what follows the padding.
        raise ValueError("not base64")
    return decoded
