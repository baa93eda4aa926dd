"""The options that name the store: ``--store``, its short forms, and ``--help-stores``."""

from __future__ import annotations

import os
from textwrap import indent, wrap
from typing import TYPE_CHECKING

from twisted.python import usage

from popserv.auth.passwords.users_file import default_path
from popserv.maildrops.kinds import make_store, store_kinds
from popserv.maildrops.layout import Layout
from popserv.maildrops.settings import StoreSettings
from popserv.options.table import SHORT_STORE_OPTIONS
from popserv.options.values import parse_age, parse_folder_delimiter

if TYPE_CHECKING:
    from popserv.interfaces import IMaildropFactory


class StoreOptions(usage.Options):
    """The options that name the store."""

    store: IMaildropFactory
    """The store, after parsing."""

    def opt_help_stores(self) -> None:
        """List the kinds of stores for --store and exit."""
        print("Usage: --store KIND:ARGUMENT\n")
        for kind in store_kinds():
            print(f"  {kind.kind}:{kind.argument}")
            print(indent("\n".join(wrap(kind.help, 74)), "      "))
        raise SystemExit(0)

    def load_store(self, settings: StoreSettings) -> None:
        """Make the store.

        :raises UsageError: no store is named, more than one is, or it cannot be made.
        """
        option, description = self._named_store()
        try:
            self.store = make_store(description, settings)
        except ValueError as error:
            raise usage.UsageError(f"{option}: {error}") from error

    def parse_store_values(self) -> None:
        """Convert ``--folder-delimiter`` and ``--since``.

        :raises UsageError: one of them is invalid.
        """
        self["folder-delimiter"] = parse_folder_delimiter(self["folder-delimiter"])
        self._parse_since()

    def _parse_since(self) -> None:
        """Convert ``--since``, and have CAPA announce when messages are no longer shown.

        :raises UsageError: it is invalid, or ``--expire`` promises more.
        """
        if self["since"] is None:
            return
        self["since"] = parse_age("since", self["since"])
        days = int(self["since"] // 86_400)
        if self["expire"] is None:
            self["expire"] = days
        elif self["expire"] > days:
            raise usage.UsageError(
                f"--expire {self['expire']}: --since hides messages after {days} days; remove "
                f"--expire, or give at most {days}"
            )

    def store_option(self) -> str:
        """Return the option that names the store, for messages."""
        return self._named_store()[0]

    def _named_store(self) -> tuple[str, str]:
        """Return the option that names the store, for messages, and the store's description."""
        given = [name for name in ("store", *SHORT_STORE_OPTIONS) if self[name]]
        if not given:
            raise usage.UsageError(
                "--maildir is required: give the directory that contains one Maildir for each "
                "user, or another store with --mbox or --store"
            )
        if len(given) > 1:
            raise usage.UsageError(
                f"--{given[0]} and --{given[1]} cannot be combined, because each names a store; "
                "remove one of them"
            )
        name, value = given[0], self[given[0]]
        if name != "store":
            return f"--{name} {value}", f"{name}:{value}"
        # The argument may contain a password.
        return f"--store {value.partition(':')[0]}", value

    def default_auth(self) -> tuple[str, str]:
        """Return the name and the argument of the checker that is used without ``--auth``.

        :raises UsageError: the store has no users, and no directory that only its administrator can
            write to.
        """
        option, description = self._named_store()
        kind, _, argument = description.partition(":")
        if kind == "sql":
            return "sql-store", argument
        if kind == "maildir":
            return "passwd-file", default_path(os.fsdecode(Layout(argument).root))
        raise usage.UsageError(
            f"{option} requires --auth, such as --auth passwd-file:/etc/popserv/users, because "
            "only Maildirs have a default users file"
        )
