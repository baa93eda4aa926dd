"""Downgrades the human-readable text in header fields: words, comments and phrases."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from popserv.messages.fields.encoded_words import MIN_ENCODED_TEXT, OVERHEAD
from popserv.messages.fields.folding import FoldedField
from popserv.messages.fields.lexer import (
    is_cfws,
    is_comment,
    is_printable_ascii,
    lex,
    unescape,
    unquote,
)

_MAX_WORD = 700
"""The maximum characters of an unencoded word; if one is longer, the whole text is encoded."""

_MAX_SPACE = 200
"""The maximum characters of white space before a word; if one has more, the same applies."""

_ENCODED_WORD = re.compile(r"=\?[^? ]+\?[BbQq]\?[^? ]*\?=")
_SPACE_AND_WORD = re.compile(r"([ \t]*)([^ \t]+)")
_IN_COMMENT = re.compile(r"([ \t]*)([()]|(?:\\.|[^()\\ \t])+|\\)", re.DOTALL)


class _Word(NamedTuple):
    """A word: the white space before it, the word as written, and the text it stands for."""

    space: str
    raw: str
    text: str


def _downgrade_words(field: FoldedField, words: Iterable[_Word]) -> None:
    """Apply Word downgrading (RFC 6857 section 3.1.2).

    Consecutive words outside ASCII are encoded together.  Readers drop white space between two
    encoded-words (RFC 2047 section 6.2), so white space that must be visible is encoded, too.
    """
    run = ""
    space_before_run = ""
    was_encoded = False
    for space, raw, text in words:
        if not is_printable_ascii(raw):
            if run:
                run += space + text
            else:
                space_before_run = " " if was_encoded else space
                run = space + text if was_encoded else text
            continue
        was_encoded = bool(_ENCODED_WORD.fullmatch(raw))
        if run:
            field.encode(run + space if was_encoded else run, space_before_run)
            run = ""
        field.copy(raw, space)
    if run:
        field.encode(run, space_before_run)


def downgrade_unstructured(field: FoldedField, text: str) -> bool:
    """Apply Unstructured downgrading (RFC 6857 section 3.1.1), which succeeds for any text."""
    words = [_Word(match[1], match[2], match[2]) for match in _SPACE_AND_WORD.finditer(text)]
    words[0] = words[0]._replace(space=" ")
    if any(len(raw) > _MAX_WORD or len(space) > _MAX_SPACE for space, raw, _ in words):
        field.encode(text)
    else:
        _downgrade_words(field, words)
    return True


def downgrade_comment(field: FoldedField, comment: str, space: str = " ") -> None:
    """Apply Comment downgrading (RFC 6857 section 3.1.3)."""
    if is_printable_ascii(comment):
        field.copy(comment, space)
        return
    words: list[_Word] = []
    depth = 0
    for match in _IN_COMMENT.finditer(comment):
        before, raw = match.groups()
        if raw not in ("(", ")"):
            words.append(_Word(before, raw, unescape(raw)))
            continue
        _downgrade_words(field, words)
        words = []
        depth += 1 if raw == "(" else -1
        before = before if depth > 1 or raw == ")" else space
        field.write(raw, before, OVERHEAD + MIN_ENCODED_TEXT)
    _downgrade_words(field, words)
    field.write(")" * depth, "")


def downgrade_structured(field: FoldedField, lexemes: Iterable[str], space: str = " ") -> bool:
    """Downgrade comments and copy the rest; return False if the rest is not ASCII."""
    text = ""
    # The last, empty comment flushes the text before it.
    for lexeme in (*lexemes, "("):
        if not is_comment(lexeme):
            text += lexeme
            continue
        if not is_printable_ascii(text):
            return False
        text = text.strip(" \t")
        if text:
            field.copy(text, space)
            space = " "
        text = ""
        if lexeme != "(":
            downgrade_comment(field, lexeme, space)
            space = " "
    return True


def downgrade_comments(field: FoldedField, text: str) -> bool:
    """Downgrade a field that may be outside ASCII in its comments only.

    This is RFC 6857 section 3.2.2, and section 3.2.3 for fields that need no encapsulation.
    Return False if there is more to downgrade than comments.
    """
    return downgrade_structured(field, lex(text))


def downgrade_phrase(field: FoldedField, lexemes: Iterable[str], last_word: str = "") -> None:
    """Apply Display-Name downgrading (RFC 6857 section 3.1.5), and Comment downgrading.

    ``last_word`` is text that becomes one more word at the end.
    """
    words: list[_Word] = []
    word: list[str] = []
    for lexeme in (*lexemes, " "):
        if not is_cfws(lexeme):
            word.append(lexeme)
            continue
        if word:
            words.append(_Word(" ", "".join(word), unquote(word)))
            word = []
        if is_comment(lexeme):
            _downgrade_words(field, words)
            words = []
            downgrade_comment(field, lexeme)
    if last_word:
        words.append(_Word(" ", last_word, last_word))
    _downgrade_words(field, words)


def downgrade_keywords(field: FoldedField, text: str) -> bool:
    """Downgrade phrases separated by commas (RFC 6857 section 3.2.7)."""
    phrase: list[str] = []
    for lexeme in lex(text):
        if lexeme == ",":
            downgrade_phrase(field, phrase)
            field.write(",", "")
            phrase = []
        else:
            phrase.append(lexeme)
    downgrade_phrase(field, phrase)
    return True
