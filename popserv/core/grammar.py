"""Command lines and their arguments (RFC 1725 section 3).

Nothing here waits, and nothing here knows a command, a session or a store.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from typing import Any

from popserv.errors import BadCommand
from popserv.texts import Counted, Text

ArgumentParser = Callable[["bytes | None"], "tuple[Any, ...]"]
"""Turns what follows the keyword (None if nothing does) into a command's arguments."""

MAX_LINE = 1024
"""The longest command line in octets, without its end; RFC 2449 section 4 requires 255."""

MAX_SASL_LINE = 100_000
"""The longest SASL response or AUTH command in octets; a token of 64 KiB fits in base64."""


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


def arguments(*kinds: Callable[[bytes], Any], minimum: int | None = None) -> ArgumentParser:
    """Build the parser of arguments parted by single spaces.

    ``kinds`` reads one argument each; ``least`` is how many must be there, all of them
    unless given.  One trailing space is tolerated, for old Outlook.
    """
    most = len(kinds)
    fewest = most if minimum is None else minimum

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


no_arguments = arguments()


def _arity(minimum: int, most: int) -> Text:
    if most == 0:
        return Text("no argument allowed")
    if minimum == most:
        return Counted("%d argument expected", "%d arguments expected", most)
    return Counted("at most %d argument expected", "at most %d arguments expected", most)


def rest_of_line(argument: bytes | None) -> tuple[bytes]:
    """Take all that follows the keyword as one argument, spaces and all."""
    if not argument:
        raise BadCommand(_arity(1, 1))
    return (argument,)


def name_and_digest(argument: bytes | None) -> tuple[bytes, bytes]:
    """Part at the last space, so that a name may hold spaces and a digest none."""
    name, _, last = (argument or b"").removesuffix(b" ").rpartition(b" ")
    if not name or not last:
        raise BadCommand(_arity(2, 2))
    return name, last


def decode_base64(text: bytes) -> bytes:
    """Return what was encoded by exactly this base64 text (RFC 4648 section 4).

    :raises ValueError: it is not base64, or not the one way to write it.
    """
    decoded = b64decode(text, validate=True)
    if b64encode(decoded) != text:
        # Stray bits at the end, and before Python 3.11 stray padding, pass b64decode.
        raise ValueError("not base64")
    return decoded
