"""Command lines: their parts, and the arguments of every command."""

from base64 import b64encode
from contextlib import suppress

from popserv.commands.dialects import DIALECTS
from popserv.core.grammar import decode_base64, name_and_digest, number, split_line, word
from popserv.errors import BadCommand
from popserv.runtime.speedups import in_python
from tests.fuzz.target import Target

COMMANDS = [command for dialect in DIALECTS.values() for command in dialect.commands]
BY_KEYWORD = {command.keyword: command for command in COMMANDS}
_PARSERS = {command.parse for command in COMMANDS}
"""Those of all commands, for lines that begin with no keyword."""


def accepted(parse, text):
    """Return what a parser returns, or None if it rejects the text with an error for clients."""
    try:
        return parse(text)
    except BadCommand:
        return None


def check(line):
    """A line is split as written, and its argument is accepted or refused."""
    split = split_line(line)
    assert split == in_python.get(split_line, split_line)(line), split
    keyword, argument = split
    rest = b"" if argument is None else b" " + argument
    assert (keyword + rest).upper() == line.removesuffix(b"\r").upper()
    for parse in _PARSERS if keyword not in BY_KEYWORD else [BY_KEYWORD[keyword].parse]:
        parsed = accepted(parse, argument)
        assert parsed is None or isinstance(parsed, tuple), (parse, parsed)
    text = argument or b""
    found = accepted(number, text)
    is_number = 0 < len(text) <= 10 and all(octet in b"0123456789" for octet in text)
    assert found == (int(text) if is_number else None), found
    has_control = any(octet <= 32 or octet == 127 for octet in text)
    assert accepted(word, text) == (None if has_control else text)
    named = accepted(name_and_digest, argument)
    assert named is None or b" ".join(named) == text.removesuffix(b" ")
    with suppress(ValueError):
        assert b64encode(decode_base64(text)) == text
    assert decode_base64(b64encode(text)) == text


TARGET = Target(
    "lines",
    check,
    (
        *(b"USER ann\r", b"PASS a b ", b"APOP ann 0123456789abcdef0123456789abcdef", b"stat"),
        *(b"LIST 2\r", b"TOP 1 0", b"UIDL 4294967296", b"AUTH PLAIN AGFubgBwdw==", b"UTF8 USER"),
        *(b"RETR 0001", b"LANG fr", b"RPOP ann", b"XYZ", b"", b" ", b"LIST  1", b"LIST 1 "),
    ),
    (*BY_KEYWORD, b"4294967295", b"==", b"\xc2\xa0", b"\r"),
    calls_per_octet=60,
)
