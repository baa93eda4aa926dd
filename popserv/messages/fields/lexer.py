"""Splits the text of a structured header field into lexemes (RFC 5322 section 3.2).

Any text can be split, even if it is malformed.  Its lexemes, joined, are the text again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_PRINTABLE_ASCII = re.compile(r"[\t -~]*")

_LEXEME = re.compile(
    r"""[ \t]+
    | "[^"\\]*(?:\\.[^"\\]*)*"?
    | \[[^\[\]\\]*(?:\\.[^\[\]\\]*)*\]?
    | [^ \t()<>@,:;"\[\]\\]+
    | .""",
    re.DOTALL | re.VERBOSE,
)
_PARENTHESIS = re.compile(r"\\.|[()]", re.DOTALL)
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)


def unfold(value: str) -> str:
    """Return a field's text without its line ends, CRLF or LF."""
    return value.replace("\r\n", "\n").replace("\n", "")


def is_printable_ascii(text: str) -> bool:
    """Return whether text is ASCII without control characters other than TAB."""
    return bool(_PRINTABLE_ASCII.fullmatch(text))


def lex(text: str) -> list[str]:
    """Split unfolded text into its lexemes.

    A lexeme is a run of white space, a quoted string, a domain literal, a comment, an atom
    with its dots, or any other single character.  A quoted string, domain literal or comment
    that is not closed extends to the end of the text.
    """
    if "(" not in text:
        return _LEXEME.findall(text)
    lexemes = []
    at = 0
    while at < len(text):
        match = _LEXEME.match(text, at)
        end = _comment_end(text, at) if text[at] == "(" or not match else match.end()
        lexemes.append(text[at:end])
        at = end
    return lexemes


def _comment_end(text: str, at: int) -> int:
    depth = 0
    for match in _PARENTHESIS.finditer(text, at):
        if match[0] == "(":
            depth += 1
        elif match[0] == ")":
            depth -= 1
            if not depth:
                return match.end()
    return len(text)


def is_comment(lexeme: str) -> bool:
    """Return whether a lexeme is a comment."""
    return lexeme.startswith("(")


def is_cfws(lexeme: str) -> bool:
    """Return whether a lexeme is a comment or white space (CFWS in RFC 5322)."""
    return lexeme[0] in " \t("


def without_comments(lexemes: Iterable[str]) -> list[str]:
    """Return the lexemes that are not comments."""
    return [lexeme for lexeme in lexemes if not is_comment(lexeme)]


def split_at_semicolons(lexemes: Iterable[str]) -> list[list[str]]:
    """Return the lexemes between semicolons."""
    segments: list[list[str]] = [[]]
    for lexeme in lexemes:
        if lexeme == ";":
            segments.append([])
        else:
            segments[-1].append(lexeme)
    return segments


def unquote(lexemes: Iterable[str]) -> str:
    """Return the text that lexemes stand for: quoted strings lose their quotes."""
    return "".join(
        unescape(lexeme[1:].removesuffix('"')) if lexeme[0] == '"' else lexeme for lexeme in lexemes
    )


def unescape(text: str) -> str:
    """Return text with each quoted-pair replaced by its character."""
    return _QUOTED_PAIR.sub(r"\1", text)
