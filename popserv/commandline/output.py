"""Standard output that may not be written, such as that to ``head`` or to a full disk."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, TextIO


class _CannotWrite(Exception):
    """Standard output cannot be written; the cause is an OSError, which no command handles."""


class _Output:
    """A stream for text whose errors are those of standard output, and of no other file."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text."""
        try:
            return self._stream.write(text)
        except OSError as error:
            raise _CannotWrite from error

    def flush(self) -> None:
        """Write what is in the buffer."""
        try:
            self._stream.flush()
        except OSError as error:
            raise _CannotWrite from error


def run_printing(run: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    """Run a command, and return its exit code, or 1 if what it prints cannot be written."""
    stream: Any = sys.stdout
    if stream is None:
        # It is closed.
        return run(arguments)
    sys.stdout = _Output(stream)
    try:
        try:
            return run(arguments)
        finally:
            # Also after --help, which exits.
            sys.stdout.flush()
    except _CannotWrite as error:
        # Python would try again when it exits.
        stream = None
        # A program such as head has read what it needs.
        if not isinstance(error.__cause__, BrokenPipeError):
            print(f"popserv: cannot write to standard output: {error.__cause__}", file=sys.stderr)
        return 1
    finally:
        sys.stdout = stream
