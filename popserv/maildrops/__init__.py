"""The mail stores, which open users' maildrops.

This package may import core, messages, runtime, interfaces, errors and texts, and no other package.
Each further store is a package or a module of its own beside maildir/, and a plugin in
twisted/plugins/popserv_stores.py.
"""

from popserv.maildrops.kinds import make_store
from popserv.maildrops.settings import StoreSettings

__all__ = ["StoreSettings", "make_store"]
