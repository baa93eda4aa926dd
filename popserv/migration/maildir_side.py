"""Maildirs for programs that move mail: opened as a session opens them, but without a reactor."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from popserv.maildrops.layout import Layout
from popserv.maildrops.maildir.mailbox import MaildirMailbox
from popserv.maildrops.maildir.store import MaildirMaildrops
from popserv.maildrops.path_problems import explain_in_directory

T = TypeVar("T")

_END_OF_HEADER = re.compile(rb"\n\r?\n")


async def _run_now(function: Callable[..., T], *args: Any) -> T:
    return function(*args)


def result_of(awaitable: Awaitable[T]) -> T:
    """Return the result of an awaitable that is there at once, because nothing uses threads.

    :raises Exception: as the awaitable.
    """
    results: list[T] = []

    async def keep() -> None:
        results.append(await awaitable)

    with suppress(StopIteration):
        keep().send(None)
    return results[0]


class MaildirSide:
    """The messages of an open Maildir, by position."""

    def __init__(self, mailbox: MaildirMailbox) -> None:
        self.mailbox = mailbox
        self.sizes: Sequence[int] = mailbox.messages.octets

    @property
    def unique_ids(self) -> dict[bytes, bytes]:
        """The unique-ids that sessions see, by base name."""
        return dict(zip(self.mailbox.base_names, self.mailbox.messages.uids, strict=True))

    def header(self, position: int) -> list[bytes]:
        """Return at least the lines of the header of a message.

        :raises POPError: the message cannot be read.
        """
        return self._read(position, _END_OF_HEADER)

    def contents(self, position: int) -> list[bytes]:
        """Return the lines of a message.

        :raises POPError: the message cannot be read.
        """
        return self._read(position)

    def _read(self, position: int, end: re.Pattern[bytes] | None = None) -> list[bytes]:
        """Return the lines of a message; those up to ``end`` are sufficient."""
        chunks = result_of(self.mailbox.open(self.mailbox.messages[position]))
        octets = bytearray()
        try:
            for chunk in chunks:
                # The end has three octets at most.
                start = max(len(octets) - 2, 0)
                octets += chunk if isinstance(chunk, bytes) else result_of(chunk)
                if end is not None and end.search(octets, start):
                    break
        finally:
            close = getattr(chunks, "close", None)
            if close is not None:
                close()
        return bytes(octets).replace(b"\r\n", b"\n").split(b"\n")


class Maildirs:
    """The Maildirs that a template gives, whose messages have unique-ids in one format.

    :raises ValueError: the template or the format is invalid.
    """

    def __init__(self, template: str, uidl: str = "filename") -> None:
        self.layout = Layout(template)
        self._maildrops = MaildirMaildrops(template, uidl=uidl, cache_messages=0, run=_run_now)

    def users(self) -> list[bytes]:
        """Return the users who have a Maildir.

        :raises OSError: a directory cannot be listed.
        """
        return self.layout.users()

    @contextmanager
    def opened(self, user: bytes) -> Iterator[MaildirSide]:
        """Open a user's Maildir under its lock, and close it in the end.

        An error of a file in the Maildir is raised with its path.

        :raises FileNotFoundError: there is none.
        :raises POPError: it cannot be opened, or a session has the lock.
        """
        mailbox = result_of(self._maildrops.open_maildrop(user))
        try:
            if not isinstance(mailbox, MaildirMailbox):
                raise FileNotFoundError(2, "there is no Maildir", self.layout.path(user))
            try:
                yield MaildirSide(mailbox)
            except OSError as error:
                if isinstance(error.filename, bytes) and b"/" not in error.filename:
                    # A file in the Maildir.
                    raise explain_in_directory(error, mailbox.maildir_fd, error.filename) from error
                raise
        finally:
            result_of(mailbox.release())
