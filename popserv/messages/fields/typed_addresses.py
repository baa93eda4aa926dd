"""Downgrades the typed addresses of delivery reports, such as Final-Recipient (RFC 6533)."""

from __future__ import annotations

import re

from popserv.messages.fields.folding import FoldedField
from popserv.messages.fields.lexer import is_comment, lex, without_comments
from popserv.messages.fields.text import downgrade_comments, downgrade_structured

_UTF_8_ADDRESS = re.compile(r"utf-8[ \t]*;(.*)", re.DOTALL | re.IGNORECASE)
_NOT_IN_XTEXT = re.compile(r"(\\x\{[0-9A-Fa-f]{2,6}\})|[^!-*,-<>-\[\]-~]")


def downgrade_typed_address(field: FoldedField, text: str) -> bool:
    """Apply Type-Addr downgrading (RFC 6857 section 3.1.9).

    An address of type ``utf-8`` is written as utf-8-addr-xtext (RFC 6533 section 3).
    Return False if an address of another type is not ASCII.
    """
    match = _UTF_8_ADDRESS.fullmatch(text)
    if not match:
        return downgrade_comments(field, text)
    lexemes = lex(match[1])
    address = "".join(without_comments(lexemes)).strip(" \t")
    field.write("utf-8;")
    field.write(_NOT_IN_XTEXT.sub(lambda found: found[1] or f"\\x{{{ord(found[0]):02X}}}", address))
    return downgrade_structured(field, (lexeme for lexeme in lexemes if is_comment(lexeme)))
