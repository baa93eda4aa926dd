"""Downgrades the trace field Received (RFC 6857 section 3.2.4)."""

from __future__ import annotations

from popserv.messages.fields.folding import FoldedField
from popserv.messages.fields.idna import downgrade_domains
from popserv.messages.fields.lexer import is_comment, is_printable_ascii, lex, without_comments
from popserv.messages.fields.text import downgrade_structured

_CLAUSES = ("from", "by", "via", "with", "id", "for", ";")


def downgrade_received(field: FoldedField, text: str) -> bool:
    """Convert domains to A-labels, and drop FOR and ID clauses that are not ASCII.

    Return False if another clause is not ASCII.
    """
    clauses: list[list[str]] = [[]]
    for lexeme in lex(text):
        if lexeme.lower() in _CLAUSES:
            clauses.append([])
        clauses[-1].append(lexeme)
    for clause in clauses:
        keyword = clause[0].lower() if clause else ""
        lexemes = clause[:1]
        lexemes += downgrade_domains(clause[1:], keyword in ("from", "by"))
        is_droppable = keyword in ("for", "id")
        if is_droppable and not is_printable_ascii("".join(without_comments(lexemes))):
            lexemes = [lexeme for lexeme in lexemes if is_comment(lexeme)]
        if not downgrade_structured(field, lexemes, "" if keyword == ";" else " "):
            return False
    return True
