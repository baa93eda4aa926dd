"""Connections of psycopg that give up waiting for a silent server.

libpq has a time-out for connecting only, and ``statement_timeout`` is the server's: a server that
has stopped, or a machine that has gone while it was asked, would keep the thread.
"""

from __future__ import annotations

import time
from typing import Any, TypeVar

from psycopg import Connection, OperationalError
from psycopg.abc import PQGen
from sqlalchemy import Engine, event

T = TypeVar("T")


def give_up_after(engine: Engine, seconds: float) -> None:
    """Let each wait of the engine's connections end after these seconds, in an error."""

    class ImpatientConnection(Connection[Any]):
        def wait(self, gen: PQGen[T], *args: Any, **options: Any) -> T:
            try:
                return super().wait(_within(seconds, gen), *args, **options)
            except _Silence:
                # What comes now would be taken for the reply to another query.
                self.close()
                raise

    def connect(dialect: Any, record: Any, args: Any, options: Any) -> Connection[Any]:
        return ImpatientConnection.connect(*args, **options)

    event.listen(engine, "do_connect", connect)


class _Silence(OperationalError):
    """The server does not answer."""


def _within(seconds: float, gen: PQGen[T]) -> PQGen[T]:
    """Pass on what a generator waits for, which psycopg resumes several times a second."""
    deadline = time.monotonic() + seconds
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if time.monotonic() > deadline:
                raise _Silence(f"no answer within {seconds:g} s")
            wanted = gen.send(ready)
    except StopIteration as end:
        result: T = end.value
        return result
