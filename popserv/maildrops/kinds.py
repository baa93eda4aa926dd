"""The kinds of stores, which Twisted plugins provide, and stores by name."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

from twisted.plugin import getPlugins

from popserv.interfaces import IMaildropFactory, IStoreKind
from popserv.maildrops.settings import StoreSettings
from popserv.runtime.permissions import describe

_OWN_KINDS = "twisted.plugins.popserv_stores"


def store_kinds() -> Iterator[IStoreKind]:
    """Yield each kind of store once: those of popserv, and then those of other plugins."""
    seen: set[str] = set()
    for kind in _find_kinds():
        if kind.kind not in seen:
            seen.add(kind.kind)
            yield kind


def _find_kinds() -> Iterator[IStoreKind]:
    # The search for plugins takes longer than a short session, and may import all of them.
    yield from filter(IStoreKind.providedBy, vars(import_module(_OWN_KINDS)).values())
    yield from getPlugins(IStoreKind)


def make_store(description: str, settings: StoreSettings) -> IMaildropFactory:
    """Return the store that a description names: the kind, a colon and the argument.

    :raises ValueError: there is no such kind, or the argument or a setting is invalid; the
        message says how to correct it.
    """
    name, colon, argument = description.partition(":")
    kind = next((each for each in store_kinds() if each.kind == name), None)
    if kind is None:
        names = ", ".join(sorted(each.kind for each in store_kinds()))
        raise ValueError(f"there is no such kind of store; use one of {names}")
    if not colon:
        raise ValueError(f"the argument is missing; write {name}:{kind.argument}")
    try:
        store = kind.make_store(argument, settings)
    except OSError as error:
        raise ValueError(describe(error)) from error
    except ImportError as error:
        # A library that the store needs.
        raise ValueError(str(error)) from error
    if not IMaildropFactory.providedBy(store):
        raise ValueError(
            f"the plugin {type(kind).__module__} has returned {store!r}, which does not provide "
            "IMaildropFactory; correct the plugin"
        )
    return store
