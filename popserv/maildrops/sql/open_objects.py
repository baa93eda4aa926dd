"""Opens the object store of a configuration, for which a library is needed."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from popserv.runtime.extras import how_to_install

if TYPE_CHECKING:
    from popserv.maildrops.sql.objects import ObjectStore


def open_objects(url: str, options: Mapping[str, str], patience: float) -> ObjectStore:
    """Return the object store at a URL; the arguments are those of ObjectStore.

    :raises ImportError: obstore is not installed; the message says how to install it.
    :raises ValueError: the URL or an option is invalid; the message has no secret.
    """
    try:
        module = import_module("popserv.maildrops.sql.objects")
    except ImportError as missing:
        raise ImportError(
            f"{missing}; messages in an object store require the extra sql; "
            f"run: {how_to_install('sql')}"
        ) from missing
    store: ObjectStore = module.ObjectStore(url, options, patience=patience)
    return store
