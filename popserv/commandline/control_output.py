"""What the commands that see and steer servers print."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from popserv.core.printable import one_line

Answer = Mapping[str, Any]

WHO_COLUMNS = (
    *("id", "user", "address", "tls", "method", "state", "age", "idle", "messages", "octets"),
)
"""The columns of ``popserv who``, which are also the names of what they contain."""

RELOADED = "changed files are read again; problems are logged"


def kicked_text(kicked: int) -> str:
    """Return what ``popserv kick`` prints."""
    return f"{kicked} connection{'' if kicked == 1 else 's'} ended"


def unblocked_text(failures: int) -> str:
    """Return what ``popserv unblock`` prints."""
    return f"{failures} failed login{'' if failures == 1 else 's'} forgotten"


def drain_text(seconds: int, *, workers: bool) -> str:
    """Return what ``popserv drain`` prints."""
    what = "the workers are replaced" if workers else "the server stops"
    return f"{what}; sessions have {seconds} seconds to end"


def print_answer(options: argparse.Namespace, answer: Answer, text: str) -> None:
    """Print an answer as JSON, or as text."""
    print(json.dumps(dict(answer)) if options.json else text)


def print_items(
    options: argparse.Namespace, columns: Sequence[str], items: Sequence[Answer]
) -> None:
    """Print each item as JSON in a line of its own, or all as a table of these columns."""
    if options.json:
        for item in items:
            print(json.dumps(dict(item)))
    else:
        rows = [[cell(item.get(name)) for name in columns] for item in items]
        print_table([[name.upper() for name in columns], *rows])


def cell(value: object) -> str:
    """Return a value in one line."""
    return "-" if value is None else one_line(str(value))


def item_text(item: Mapping[str, Any]) -> str:
    """Return an item of a listing in one line."""
    parts = []
    for name, value in item.items():
        text = ", ".join(value) if isinstance(value, list) else str(value)
        if name != "position":
            parts.append(f"{name} {text}")
    return one_line("; ".join(parts))


def print_table(rows: list[list[str]]) -> None:
    """Print rows with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (text.ljust(width) for text, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
