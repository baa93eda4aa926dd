"""Downgrades lists of addresses, as in From and To (RFC 6857 section 3.2.1)."""

from __future__ import annotations

from typing import NamedTuple

from popserv.messages.fields.folding import FoldedField
from popserv.messages.fields.idna import downgrade_domains
from popserv.messages.fields.lexer import is_cfws, is_comment, is_printable_ascii, lex
from popserv.messages.fields.text import downgrade_phrase


def downgrade_addresses(field: FoldedField, text: str) -> bool:
    """Downgrade mailboxes and groups, which succeeds for any text."""
    display_name: list[str] = []
    members: list[list[str]] | None = None
    element: list[str] = []
    in_angle = False
    for lexeme in (*lex(text), ""):
        in_angle = lexeme == "<" or (in_angle and lexeme != ">")
        is_part = (
            in_angle or lexeme not in (",", ";", ":") or (lexeme == ":" and members is not None)
        )
        if lexeme and is_part:
            element.append(lexeme)
            continue
        if lexeme == ":":
            display_name, members = element, []
        elif members is None:
            _downgrade_mailbox(field, element)
            if lexeme:
                field.write(lexeme, "")
        else:
            members.append(element)
            if lexeme != ",":
                _downgrade_group(field, display_name, members)
                members = None
        element = []
    return True


def _downgrade_group(field: FoldedField, display_name: list[str], members: list[list[str]]) -> None:
    """Apply Group downgrading (RFC 6857 section 3.1.7)."""
    if any(_ascii_address(_split_mailbox(member).address) is None for member in members):
        text = ",".join(map("".join, members)).strip(" \t")
        downgrade_phrase(field, display_name, text)
        field.write(":;")
        return
    downgrade_phrase(field, display_name)
    separator = ":"
    for member in members:
        field.write(separator, "")
        _downgrade_mailbox(field, member)
        separator = ","
    field.write(";", "")


def _downgrade_mailbox(field: FoldedField, lexemes: list[str]) -> None:
    """Apply Mailbox downgrading (RFC 6857 section 3.1.8) after Display-Name downgrading.

    A mailbox without an ASCII address becomes an empty group whose name is the address.
    """
    text = "".join(lexemes)
    if is_printable_ascii(text):
        field.copy(text.strip(" \t"))
        return
    before, address, after, in_angle = _split_mailbox(lexemes)
    ascii_address = _ascii_address(address)
    if ascii_address is None:
        downgrade_phrase(field, before, "".join(address).strip(" \t"))
        field.write(":;")
    else:
        downgrade_phrase(field, before)
        text = "".join(ascii_address).strip(" \t")
        field.copy(f"<{text}>" if in_angle else text)
        # Comments move after the address: within it they could not be folded.
        kept = set(ascii_address)
        downgrade_phrase(field, (each for each in address if each not in kept and is_comment(each)))
    downgrade_phrase(field, after)


class _Mailbox(NamedTuple):
    """The lexemes of a mailbox: before its addr-spec, of it and after it; it may be in brackets."""

    before: list[str]
    address: list[str]
    after: list[str]
    in_angle: bool


def _split_mailbox(lexemes: list[str]) -> _Mailbox:
    if "<" in lexemes:
        start = lexemes.index("<")
        end = lexemes.index(">", start) if ">" in lexemes[start:] else len(lexemes)
        return _Mailbox(lexemes[:start], lexemes[start + 1 : end], lexemes[end + 1 :], True)
    words = [index for index, lexeme in enumerate(lexemes) if not is_cfws(lexeme)] or [0]
    start, end = words[0], words[-1] + 1
    return _Mailbox(lexemes[:start], lexemes[start:end], lexemes[end:], False)


def _ascii_address(address: list[str]) -> list[str] | None:
    """Return an addr-spec with A-labels and without comments outside ASCII.

    Return None if it is still not ASCII then.
    """
    lexemes = [
        lexeme
        for lexeme in downgrade_domains(address)
        if is_printable_ascii(lexeme) or not is_comment(lexeme)
    ]
    return lexemes if all(map(is_printable_ascii, lexemes)) else None
