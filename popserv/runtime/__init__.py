"""Concurrency for the rest of popserv: thread pools, coroutines, the bus between workers.

Imports Twisted, :mod:`popserv.interfaces`, :mod:`popserv.errors` and :mod:`popserv.texts`.
"""

from popserv.runtime.bus import Subscriber, WorkerBus
from popserv.runtime.coroutines import run_eagerly
from popserv.runtime.threads import BoundedThreadPool, StillNeeded

__all__ = ["BoundedThreadPool", "StillNeeded", "Subscriber", "WorkerBus", "run_eagerly"]
