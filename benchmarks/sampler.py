"""Run twistd, and say where it spends its CPU time: ``python sampler.py FILE ARGUMENTS``.

SIGUSR2 begins, and the next one ends and writes FILE.

The kernel tells of each tick of CPU time that the process uses, by SIGPROF, and of each that
it does not spend in the kernel, by SIGVTALRM.  A sample is what stands on the stack then of
the thread that has used most since the last one; it weighs what all have used since.  So
waiting costs nothing, and nothing is stopped or made slower.  Python comes to a handler when
a call returns or a function begins: what a line does in C is that line's.
"""

import ctypes
import gc
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from contextlib import suppress

from twisted.scripts.twistd import run

KERNEL = "[kernel]"
"""What stands on top of a stack that waits for a system call to return."""

_INTERVAL = time.clock_getres(6)
"""Seconds of a tick, which is what CLOCK_MONOTONIC_COARSE counts in: with less, the timer of
one kind would go off at ticks of the other kind, to make up for those that it missed."""
_ANYBODY = ctypes.c_ulong(-1)
_SET_PTRACER = 0x59616D61


class Sampler:
    """Samples from one SIGUSR2 to the next."""

    def __init__(self, path):
        self._path = path
        self._running = False
        self._names = {}
        signal.signal(signal.SIGUSR2, self._toggle)

    def _toggle(self, number, frame):
        self._running = not self._running
        if self._running:
            self._begin()
        else:
            self._end()

    def _begin(self):
        self._stacks = Counter()
        self._samples = 0
        self._collecting = 0.0
        self._user = False
        self._before = _used()
        gc.callbacks.append(self._collect)
        for signum, handler in ((signal.SIGVTALRM, self._in_user), (signal.SIGPROF, self._sample)):
            signal.signal(signum, handler)
            # A call that was interrupted goes on.
            signal.siginterrupt(signum, False)
        signal.setitimer(signal.ITIMER_VIRTUAL, _INTERVAL, _INTERVAL)
        signal.setitimer(signal.ITIMER_PROF, _INTERVAL, _INTERVAL)

    def _end(self):
        for timer in (signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
            signal.setitimer(timer, 0)
        # One that is still to come must not end the process.
        for signum in (signal.SIGVTALRM, signal.SIGPROF):
            signal.signal(signum, signal.SIG_IGN)
        gc.callbacks.remove(self._collect)
        found = {
            "samples": self._samples,
            "collecting": self._collecting,
            "stacks": dict(self._stacks),
        }
        with open(f"{self._path}.new", "w") as file:
            json.dump(found, file)
        os.replace(f"{self._path}.new", self._path)

    def _collect(self, phase, info):
        now = time.thread_time()
        if phase == "start":
            self._began = now
        else:
            self._collecting += now - self._began

    def _in_user(self, number, frame):
        # Of two signals that are there, Python takes the lower number first: SIGVTALRM.
        self._user = True

    def _sample(self, number, frame):
        user, self._user = self._user, False
        used = _used()
        spent = {thread: cpu - self._before.get(thread, 0.0) for thread, cpu in used.items()}
        self._before = used
        busiest = max(spent, key=spent.__getitem__)
        if busiest != threading.main_thread().ident:
            frame = sys._current_frames().get(busiest)
        if frame is None or frame.f_code.co_filename == __file__:
            return
        names = [] if user else [KERNEL]
        while frame is not None:
            names.append(self._name(frame.f_code))
            frame = frame.f_back
        self._stacks[";".join(reversed(names))] += sum(spent.values())
        self._samples += 1

    def _name(self, code):
        name = self._names.get(code)
        if name is None:
            function = getattr(code, "co_qualname", code.co_name)  # since Python 3.11
            name = self._names[code] = f"{code.co_filename}:{function}".replace(";", ",")
        return name


def _used():
    """Return the seconds of CPU time of each thread."""
    used = {}
    for thread in threading.enumerate():
        # It may just be ending.
        with suppress(OSError, TypeError):
            used[thread.ident] = time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
    return used


if __name__ == "__main__":
    # So that strace may look on where only parents may; kernels without that rule say no.
    ctypes.CDLL(None).prctl(_SET_PTRACER, _ANYBODY, 0, 0, 0)
    Sampler(sys.argv.pop(1))
    del sys.path[0]  # the modules beside this one are none of the server's
    run()
