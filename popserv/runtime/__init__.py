"""The process that popserv runs in: threads, coroutines, clock, bus of workers, private files.

This package may import interfaces, errors and texts.
"""

from popserv.runtime.bus import Subscriber, WorkerBus
from popserv.runtime.clock import use_steady_clock
from popserv.runtime.coroutines import run_eagerly
from popserv.runtime.threads import BoundedThreadPool, StillNeeded

__all__ = [
    "BoundedThreadPool",
    "StillNeeded",
    "Subscriber",
    "WorkerBus",
    "run_eagerly",
    "use_steady_clock",
]
