"""What the options of a server tell its store."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from popserv.messages.sizes import MakeDowngrader


@dataclass(frozen=True)
class StoreSettings:
    """The settings of a store in one process.

    The metadata of a field name its option, if a store may be unable to support it.
    """

    cache_messages: int
    """How many messages may be cached between sessions, in this process."""
    processes: int = 1
    """How many processes serve the store."""
    downgrader: MakeDowngrader | None = field(default=None, metadata={"option": "--utf8"})
    """Downgrades messages, for a server with UTF8; None for any other server."""
    uidl: str = field(default="filename", metadata={"option": "--uidl"})
    """The format of unique-ids."""
    folder: str = field(default="INBOX", metadata={"option": "--folder"})
    """The folder of each user that is served."""
    folder_delimiter: str = field(default="", metadata={"option": "--folder-delimiter"})
    """What separates the names of a user and a folder, so that a client can ask for the folder;
    empty if it cannot."""
    deleted: str = field(default="remove", metadata={"option": "--deleted"})
    """What removal means: ``remove``, ``keep``, or ``move:`` and the name of a folder."""
    since: float | None = field(default=None, metadata={"option": "--since"})
    """The age in seconds above which messages are not shown; None to show all."""

    as_owners: bool = False
    """Whether each maildrop is accessed as the user whom it belongs to, if the process can do that;
    see :class:`popserv.maildrops.owners.store.OwnersStore`."""

    def reject_unsupported(self, *supported: str) -> None:
        """Reject the settings of options that the store does not support.

        ``supported`` are the names of the fields that it does.

        :raises ValueError: an unsupported setting has another value than its default.
        """
        for each in fields(self):
            option = each.metadata.get("option")
            if option and each.name not in supported and getattr(self, each.name) != each.default:
                raise ValueError(f"this store does not support {option}; remove {option}")
