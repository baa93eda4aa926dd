"""The store of ``--store maildir:PATH``, made from the path and the settings of the options."""

from __future__ import annotations

import os

from popserv.maildrops.layout import Layout
from popserv.maildrops.maildir.store import MaildirMaildrops
from popserv.maildrops.maildir.unique_ids.format import UniqueIdFormat
from popserv.maildrops.path_problems import explain_directory
from popserv.maildrops.settings import StoreSettings


def make_store(argument: str, settings: StoreSettings) -> MaildirMaildrops:
    """Return the store for a template of paths, whose root directory must exist.

    :raises ValueError: the template is invalid, or its root is missing or a Maildir itself, or the
        format of unique-ids is invalid.
    """
    settings.reject_unsupported("downgrader", "uidl")
    if not argument:
        raise ValueError("give the directory that contains one Maildir for each user")
    root = os.fsdecode(Layout(argument).root)
    problem = explain_directory(root)
    if problem:
        raise ValueError(problem)
    if "%" not in argument and all(
        os.path.isdir(os.path.join(root, folder)) for folder in ("new", "cur")
    ):
        raise ValueError(
            f"the directory {root} is itself a Maildir; give its parent directory, which contains "
            "one Maildir for each user"
        )
    try:
        UniqueIdFormat(settings.uidl)
    except ValueError as error:
        raise ValueError(f"--uidl {settings.uidl}: {error}") from error
    return MaildirMaildrops(
        argument,
        cache_messages=settings.cache_messages,
        downgrader=settings.downgrader,
        uidl=settings.uidl,
    )
