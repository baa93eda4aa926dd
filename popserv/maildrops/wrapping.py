"""What a store that wraps another one has from it."""

from __future__ import annotations

from typing import Any

from zope.interface import alsoProvides

from popserv.interfaces import ICaching, IDiagnosedStore, IScanCounts, IUserListing

_SHARED: tuple[Any, ...] = (ICaching, IScanCounts, IUserListing, IDiagnosedStore)


def share_interfaces(wrapper: Any, store: object, *more: Any) -> None:
    """Have a store provide what another one does that opens no maildrop.

    These are its caches, its users, and the faults that it finds, and ``more`` interfaces.  What
    the class of the wrapper defines stays.
    """
    for interface in (*_SHARED, *more):
        if interface.providedBy(store):
            alsoProvides(wrapper, interface)
            for name in interface.names(all=True):
                if not hasattr(type(wrapper), name):
                    setattr(wrapper, name, getattr(store, name))
