"""Converts internationalized domain names to A-labels (IDNA 2008: RFC 5890 to RFC 5892).

Python's codec ``idna`` implements IDNA 2003, which converts a name with an eszett to a
different domain.
"""

from __future__ import annotations

# The codec is loaded at the start: later, the process may not be able to read Python's files.
import encodings.punycode  # noqa: F401
import re
from collections.abc import Iterable
from functools import lru_cache
from unicodedata import category, normalize

from popserv.messages.fields.lexer import is_cfws, is_printable_ascii

_MAX_LABEL = 63
_LETTERS_AND_DIGITS = {"Ll", "Lo", "Lm", "Mn", "Mc", "Nd"}
# RFC 5892 section 2.6: valid though not stable under normalization and case folding.
_EXCEPTIONS = "\u00df\u03c2\u0f0b\u3007"
# RFC 5892 sections 2.3, 2.4, 2.6 and 2.9: invalid though letters or marks.
_INVALID = re.compile(
    "[\u034f\u0640\u07fa\u1100-\u11ff\u17b4\u17b5\u180b-\u180f\u302e\u302f\u3031-\u3035\u303b\u3164"
    "\ua960-\ua97c\ud7b0-\ud7fb\ufe00-\ufe0f\u20d0-\u20ff\U0001d100-\U0001d24f\U000e0100-\U000e01ef]"
)


def downgrade_domains(lexemes: Iterable[str], starts_with_domain: bool = False) -> Iterable[str]:
    """Apply Domain downgrading (RFC 6857 section 3.1.6) on the lexeme after each at sign.

    With ``starts_with_domain`` the first lexeme is a domain, too.
    """
    is_domain = starts_with_domain
    for lexeme in lexemes:
        if is_cfws(lexeme):
            yield lexeme
            continue
        yield lexeme if not is_domain or lexeme.isascii() else _a_labels(lexeme)
        is_domain = lexeme == "@"


def _a_labels(domain: str) -> str:
    """Return a domain in A-labels, or unchanged if one of its labels has no A-label."""
    labels = [a_label(label) for label in domain.split(".")]
    return domain if "" in labels else ".".join(labels)


@lru_cache(1000)
def a_label(label: str) -> str:
    """Return a label as an A-label (RFC 5891 section 4.4), empty if it is not a U-label.

    Upper case is mapped to lower case (RFC 5895 section 2).  Labels with characters that are
    valid only in some contexts are rejected.
    """
    if label.isascii():
        return label if is_printable_ascii(label) else ""
    label = normalize("NFC", label.lower())
    if (
        len(label) > _MAX_LABEL
        or label.isascii()
        or label[2:4] == "--"
        or label[0] == "-"
        or label[-1] == "-"
        or category(label[0])[0] == "M"
        or _INVALID.search(label)
        or not all(map(_is_valid_character, label))
    ):
        return ""
    label = "xn--" + label.encode("punycode").decode("ascii")
    return label if len(label) <= _MAX_LABEL else ""


def _is_valid_character(character: str) -> bool:
    if character.isascii():
        return character.isalnum() or character == "-"
    stable = normalize("NFKC", normalize("NFKC", character).casefold())
    return character in _EXCEPTIONS or (
        category(character) in _LETTERS_AND_DIGITS and stable == character
    )
