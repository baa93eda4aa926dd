"""Tables that fit a telephone: there, each row is a card, and its numbers have labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from twisted.web.template import Tag, tags

from popserv.core.printable import one_line

Cell = Tag | str | None
"""The contents of a cell; None is shown as a dash, and a text in one line."""


class Style(Enum):
    """What the cells of a column contain, and the class of their style in page.css."""

    WORDS = "words"
    """May be long, and says what it is without a label."""
    TERM = "term"
    """Is short, and says what it is without a label."""
    NUMBER = "number"


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    label: str
    style: Style = Style.WORDS


def table(columns: Sequence[Column], rows: Iterable[Sequence[Cell]], caption: str) -> Tag:
    """Return a table, in which the first cell of each row is the header of its row."""
    head = [_cell("th", column, column.label, scope="col") for column in columns]
    return tags.table(
        tags.caption(caption),
        tags.thead(tags.tr(*head)),
        tags.tbody(*(_row(columns, row) for row in rows)),
    )


def _row(columns: Sequence[Column], row: Sequence[Cell]) -> Tag:
    first, *others = zip(columns, row, strict=True)
    header = _cell("th", *first, scope="row")
    cells = [_cell("td", column, content, data_label=column.label) for column, content in others]
    return tags.tr(header, *cells)


def _cell(name: str, column: Column, content: Cell, **attributes: str) -> Tag:
    style = column.style.value
    if content is None:
        style, content = f"{style} absent", "\u2013"
    elif isinstance(content, str):
        content = one_line(content)
    named: dict[Any, Any] = {key.replace("_", "-"): value for key, value in attributes.items()}
    return Tag(name, {"class": style, **named}, [content])
