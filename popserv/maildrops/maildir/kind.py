"""The store of ``--store maildir:PATH``, made from the path and the settings of the options."""

from __future__ import annotations

import os

from popserv.interfaces import IMaildropFactory
from popserv.maildrops.layout import Layout
from popserv.maildrops.maildir.configured import ConfiguredMaildirs
from popserv.maildrops.maildir.folder_names import FolderLayout, directory_of
from popserv.maildrops.maildir.folders import FOLDER_NAMES
from popserv.maildrops.owners.store import OwnersStore
from popserv.maildrops.path_problems import explain_directory
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
    store = ConfiguredMaildirs(argument, settings)
    if not settings.as_owners:
        return store
    layout = FolderLayout(argument, directory_of(settings.folder))
    return OwnersStore(store, layout, inside=FOLDER_NAMES)
