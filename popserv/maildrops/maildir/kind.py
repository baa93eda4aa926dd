"""The store of ``--store maildir:PATH``, made from the path and the settings of the options."""

from __future__ import annotations

import os

from popserv.interfaces import IMaildropFactory
from popserv.maildrops.layout import Layout
from popserv.maildrops.maildir.folder_names import directory_of
from popserv.maildrops.maildir.hiding import HidingMaildrops
from popserv.maildrops.maildir.store import MaildirMaildrops
from popserv.maildrops.maildir.unique_ids.format import UniqueIdFormat
from popserv.maildrops.path_problems import explain_directory
from popserv.maildrops.recent import RecentMaildrops
from popserv.maildrops.settings import StoreSettings


def make_store(argument: str, settings: StoreSettings) -> IMaildropFactory:
    """Return the store for a template of paths, whose root directory must exist.

    :raises ValueError: the template or a setting is invalid, or the root is missing or a
        Maildir itself.
    """
    settings.reject_unsupported(
        *("downgrader", "deleted", "folder", "folder_delimiter", "since", "uidl")
    )
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
    try:
        directory = directory_of(settings.folder)
    except ValueError as error:
        raise ValueError(f"--folder: {error}") from error
    store = MaildirMaildrops(
        argument,
        cache_messages=settings.cache_messages,
        downgrader=settings.downgrader,
        uidl=settings.uidl,
        folder=directory,
        trash=_trash(settings.deleted, directory),
    )
    shown = HidingMaildrops(store) if settings.deleted == "keep" else store
    return shown if settings.since is None else RecentMaildrops(shown, settings.since, store.run)


def _trash(deleted: str, directory: str) -> str:
    """Return the directory of the folder of ``--deleted``; empty if there is none.

    :raises ValueError: the value is invalid, or the folder is the one that is served.
    """
    if deleted in ("remove", "keep"):
        return ""
    action, colon, folder = deleted.partition(":")
    if action != "move" or not colon:
        raise ValueError(f"--deleted must be remove, keep or move:FOLDER, not {deleted!r}")
    try:
        trash = directory_of(folder)
    except ValueError as error:
        raise ValueError(f"--deleted: {error}") from error
    if not trash or trash == directory:
        raise ValueError(
            f"--deleted: {folder!r} is the inbox or the folder that is served; name another"
        )
    return trash
