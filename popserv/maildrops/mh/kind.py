"""The store of ``--store mh:PATH``, made from the path and the settings of the options."""

from __future__ import annotations

import os

from popserv.interfaces import IMaildropFactory
from popserv.maildrops.layout import Layout
from popserv.maildrops.mh.store import MHMaildrops
from popserv.maildrops.owners.store import OwnersStore
from popserv.maildrops.path_problems import explain_directory
from popserv.maildrops.recent import RecentMaildrops
from popserv.maildrops.settings import StoreSettings


def make_store(argument: str, settings: StoreSettings) -> IMaildropFactory:
    """Return the store for a template of paths, whose root directory must exist.

    :raises ValueError: the template or a setting is invalid, or the root is missing.
    """
    settings.reject_unsupported("downgrader", "since")
    if not argument:
        raise ValueError(
            "give the path of the folders with a variable, such as /home/%u/Mail/inbox"
        )
    layout = Layout(argument)
    problem = explain_directory(os.fsdecode(layout.root))
    if problem:
        raise ValueError(problem)
    store = MHMaildrops(
        argument, cache_messages=settings.cache_messages, downgrader=settings.downgrader
    )
    shown: IMaildropFactory = store
    if settings.since is not None:
        shown = RecentMaildrops(store, settings.since, store.run)
    return OwnersStore(shown, layout) if settings.as_owners else shown
