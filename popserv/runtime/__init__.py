"""Concurrency for the rest of popserv: thread pools, coroutines, the bus between workers.

This package may import interfaces, errors and texts.
"""

from popserv.runtime.bus import Subscriber, WorkerBus
from popserv.runtime.coroutines import run_eagerly
from popserv.runtime.threads import BoundedThreadPool, StillNeeded

__all__ = ["BoundedThreadPool", "StillNeeded", "Subscriber", "WorkerBus", "run_eagerly"]
