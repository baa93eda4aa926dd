"""Reads and downgrades MIME field values with parameters (RFC 2045, RFC 2231).

Examples are Content-Type and Content-Disposition.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote

from popserv.messages.fields.encoded_words import MIN_ENCODED_TEXT, end_of_characters
from popserv.messages.fields.folding import LINE_WIDTH, FoldedField
from popserv.messages.fields.lexer import (
    is_comment,
    is_printable_ascii,
    lex,
    split_at_semicolons,
    unfold,
    unquote,
    without_comments,
)
from popserv.messages.fields.text import downgrade_comment, downgrade_structured

_ATTRIBUTE = re.compile(r"([!#$%&'+.^_`|{}~0-9A-Za-z-]{1,60})(\*[0-9]{1,3})?(\*)?")
_ATTRIBUTE_CHARACTERS = "!#$&+-.^_`{|}~"


def parse_mime_value(value: bytes) -> tuple[str, dict[str, str]]:
    """Return the first part of a MIME field's value, and its parameters.

    ``value`` may be folded, and is decoded as Latin-1.  The first part and the names of the
    parameters are in lower case.  If a name occurs more than once, its first value is returned.
    """
    texts = (
        "".join(without_comments(segment)).strip(" \t")
        for segment in split_at_semicolons(lex(unfold(value.decode("latin-1"))))
    )
    first = next(texts).lower()
    parameters: dict[str, str] = {}
    for text in texts:
        name, _, quoted = text.partition("=")
        parameters.setdefault(name.rstrip(" \t").lower(), unquote(lex(quoted.strip(" \t"))))
    return first, parameters


class _Parameter(NamedTuple):
    """A parameter: the parts of its name, and its value (RFC 2231 sections 3 and 4).

    In ``name*0*``, the section is ``*0`` and the star ``*``.
    """

    name: str
    section: str
    star: str
    value: str

    @property
    def is_plain(self) -> bool:
        """Whether the parameter is neither a section nor an extended value."""
        return not self.section and not self.star


def downgrade_mime_value(field: FoldedField, text: str) -> bool:
    """Apply MIME-Value downgrading (RFC 6857 sections 3.1.4 and 3.2.5), and Comment downgrading.

    Return False if anything but comments and parameter values is not ASCII.
    """
    first, *rest = split_at_semicolons(lex(text))
    parameters = [_parse_parameter(segment) for segment in rest]
    names = {"".join(each[:3]).lower() for each in parameters if each}
    boundaries = sum(each is not None and each.name.lower() == "boundary" for each in parameters)
    to_encode = {
        (each.name.lower(), each.is_plain)
        for each in parameters
        if each and not is_printable_ascii(each.value)
    }
    if not downgrade_structured(field, first):
        return False
    for segment, parameter in zip(rest, parameters, strict=True):
        if parameter is None or (parameter.name.lower(), parameter.is_plain) not in to_encode:
            field.write(";", "")
            if not downgrade_structured(field, segment):
                return False
            continue
        name = parameter.name.lower()
        # RFC 2231 does not say which form counts; of several boundaries, here the first one does.
        is_boundary = name == "boundary"
        # The sender has also written the parameter in ASCII (RFC 2231): drop the raw form, which
        # is for readers that do not support RFC 2231.
        has_others = names & {name + "*", name + "*0", name + "*0*"}
        if parameter.is_plain and has_others and not is_boundary:
            continue
        field.write(";", "")
        if parameter.is_plain:
            # Its sections could not be told from those of another one.
            _write_extended(field, parameter, may_split=not is_boundary or boundaries == 1)
        else:
            _write_extended_section(field, parameter)
        for lexeme in segment:
            if is_comment(lexeme):
                downgrade_comment(field, lexeme)
    return True


def _parse_parameter(segment: list[str]) -> _Parameter | None:
    name, _, value = "".join(without_comments(segment)).partition("=")
    match = _ATTRIBUTE.fullmatch(name.strip(" \t"))
    if not match:
        return None
    return _Parameter(match[1], match[2] or "", match[3] or "", unquote(lex(value.strip(" \t"))))


def _write_extended(field: FoldedField, parameter: _Parameter, *, may_split: bool) -> None:
    """Write a parameter with an extended value, without a language (RFC 2231 section 4).

    A long value is split into sections (RFC 2231 section 3), if it may be.
    """
    value = quote(parameter.value, _ATTRIBUTE_CHARACTERS)
    whole = f"{parameter.name}*=UTF-8''{value}"
    if len(whole) < LINE_WIDTH or not may_split:
        field.write(whole)
        return
    start = section = 0
    while start < len(value):
        if section:
            field.write(";", "")
        head = f"{parameter.name}*{section}*=" + ("" if section else "UTF-8''")
        width = max(MIN_ENCODED_TEXT, LINE_WIDTH - len(head) - 1)
        end = end_of_characters(value, start, width, "%")
        field.write(head + value[start:end])
        start = end
        section += 1


def _write_extended_section(field: FoldedField, parameter: _Parameter) -> None:
    """Write one section of a value that its sender has split into sections."""
    name, section, star, value = parameter
    value = quote(value, _ATTRIBUTE_CHARACTERS + ("%'" if star else ""))
    charset = "UTF-8''" if section == "*0" and not star else ""
    field.write(f"{name}{section}*={charset}{value}")
