"""The stores of ``--store mbox:PATH`` and its relatives, made from a path and the settings."""

from __future__ import annotations

import os

from popserv.interfaces import IMaildropFactory
from popserv.maildrops.layout import Layout
from popserv.maildrops.mbox.parser import Format
from popserv.maildrops.mbox.store import MboxMaildrops
from popserv.maildrops.owners.store import OwnersStore
from popserv.maildrops.path_problems import explain_directory
from popserv.maildrops.recent import RecentMaildrops
from popserv.maildrops.settings import StoreSettings

FORMATS = {
    "mbox": Format(),
    "mboxo": Format(believes_content_length=False),
    "mboxrd": Format(believes_content_length=False, is_quoted=True),
}
"""How the files of each kind are read."""


def make_store(kind: str, argument: str, settings: StoreSettings) -> IMaildropFactory:
    """Return the store for a template of paths, whose root directory must exist.

    :raises ValueError: the template is invalid, or its root is missing.
    """
    settings.reject_unsupported("downgrader", "since")
    if not argument:
        raise ValueError("give the directory that contains one mbox file for each user")
    layout = Layout(argument)
    problem = explain_directory(os.fsdecode(layout.root))
    if problem:
        raise ValueError(problem)
    store = MboxMaildrops(
        argument,
        FORMATS[kind],
        cache_messages=settings.cache_messages,
        downgrader=settings.downgrader,
    )
    shown: IMaildropFactory = store
    if settings.since is not None:
        shown = RecentMaildrops(store, settings.since, store.run)
    return OwnersStore(shown, layout) if settings.as_owners else shown
