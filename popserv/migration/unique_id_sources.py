"""Where ``popserv uidl import`` takes unique-ids from: files, or another server."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from popserv.core.printable import printable
from popserv.maildrops.maildir.unique_ids.format import UniqueIdFormat
from popserv.maildrops.maildir.unique_ids.pinning import listed_unique_ids
from popserv.migration.maildir_side import MaildirSide
from popserv.migration.matching import Side, match


class Found(NamedTuple):
    """What a source knows of a user's messages: unique-ids by base name.

    ``unmatched`` has a line for each message of the source that is no message of the Maildir, or
    may be one of several.
    """

    unique_ids: Mapping[bytes, bytes]
    unmatched: Sequence[str] = ()


class Source(Protocol):
    """Tells which unique-ids clients know."""

    @abstractmethod
    def find(self, user: bytes, maildir: MaildirSide) -> Found:
        """Return what the source knows of a user's messages.

        :raises OSError: a file or a server cannot be read.
        """


class ListSource:
    """The file of Dovecot or Courier in each Maildir."""

    def __init__(self, unique_id_format: UniqueIdFormat) -> None:
        self._format = unique_id_format

    def find(self, user: bytes, maildir: MaildirSide) -> Found:
        """See Source."""
        try:
            return Found(listed_unique_ids(maildir.mailbox.maildir_fd, self._format))
        except FileNotFoundError as error:
            reason = (
                "no such file; the other server has not opened this Maildir, or keeps the file in "
                "another directory"
            )
            raise FileNotFoundError(error.errno, reason, error.filename) from error


class FileSource:
    """A file of ``popserv uidl export``, which has been read."""

    def __init__(self, users: Mapping[bytes, Mapping[bytes, bytes]]) -> None:
        self._users = users

    def find(self, user: bytes, maildir: MaildirSide) -> Found:
        """See Source."""
        listed = self._users.get(user, {})
        present = set(maildir.mailbox.base_names)
        return Found(
            listed,
            [
                f"{printable(name)}: no message in the Maildir has this base name"
                for name in listed
                if name not in present
            ],
        )


class RemoteSide(Side, Protocol):
    """The messages of another server, in an open session."""

    @property
    def unique_ids(self) -> Sequence[bytes]:
        """The unique-id of each message; empty if the server has none for it."""


class ServerSource:
    """Another POP3 server.

    ``connect`` logs a user in; it raises OSError or ValueError if that fails.
    """

    def __init__(self, connect: Callable[[bytes], AbstractContextManager[RemoteSide]]) -> None:
        self._connect = connect

    def find(self, user: bytes, maildir: MaildirSide) -> Found:
        """See Source."""
        with self._connect(user) as remote:
            matches = match(remote, maildir)
            unique_ids = remote.unique_ids
        names = maildir.mailbox.base_names
        reasons = dict.fromkeys(matches.missing, "no message in the Maildir has this header")
        reasons |= dict.fromkeys(
            matches.doubtful, "the messages in the Maildir with this header differ from it"
        )
        return Found(
            {names[local]: unique_ids[at] for at, local in matches.pairs.items()},
            [
                f"message {at + 1} of the other server, unique-id {printable(unique_ids[at])}: "
                f"{reasons[at]}"
                for at in sorted(reasons)
            ],
        )
