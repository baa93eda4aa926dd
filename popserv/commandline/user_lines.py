"""What commands for many users print about each of them, and their progress."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from popserv.core.printable import one_line, printable
from popserv.errors import POPError
from popserv.runtime.permissions import describe

MAX_LINES = 20
"""The maximum number of lines about single messages, for each user."""


def print_lines(user: bytes, lines: Sequence[str]) -> None:
    """Print lines about messages of a user, of which there may be too many."""
    for line in lines[:MAX_LINES]:
        print(f"{printable(user)}: {line}")
    if len(lines) > MAX_LINES:
        print(f"{printable(user)}: and {len(lines) - MAX_LINES} more")


def print_problem(user: bytes, error: Exception) -> None:
    """Print the reason why a user could not be processed to standard error."""
    print_warning(user, reason_of(error))


def print_warning(user: bytes, text: str) -> None:
    """Print a line about a user to standard error."""
    print(f"popserv: {printable(user)}: {one_line(text)}", file=sys.stderr, flush=True)


def print_warnings(user: bytes, texts: Sequence[str]) -> None:
    """Print warnings about messages of a user, of which there may be too many, as print_lines."""
    for text in texts[:MAX_LINES]:
        print_warning(user, text)
    if len(texts) > MAX_LINES:
        print_warning(user, f"and {len(texts) - MAX_LINES} more warnings")


def reason_of(error: Exception) -> str:
    """Return the text of an error."""
    if isinstance(error, POPError) and error.__cause__ is not None:
        # What it tells clients has no details.
        return str(error.__cause__)
    if isinstance(error, OSError):
        return describe(error) if error.filename else str(error)
    return str(error)


class ProgressLine:
    """A line at the end of a terminal that says how far the command is.

    If standard error is not a terminal, nothing is written.
    """

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()

    def write(self, text: str) -> None:
        """Show a text instead of the last one."""
        if self._is_terminal:
            # "Erase in line", ECMA-48.
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()

    def clear(self) -> None:
        """Remove the line, so that others can be printed."""
        self.write("")


class Progress(ProgressLine):
    """A line about the user who is processed."""

    def __init__(self, users: int) -> None:
        super().__init__()
        self._users = users

    def show(self, user: bytes, done: int, text: str) -> None:
        """Show which user is processed, after how many others, and what of it."""
        self.write(f"{done + 1} of {self._users}: {printable(user)}, {text}")
