"""Run twistd under a sampling profiler: ``python sampler.py FILE ARGUMENTS``.

SIGUSR2 starts the sampling; the next SIGUSR2 stops it and writes the samples to FILE as JSON.

The kernel sends SIGPROF for each tick of CPU time that the process uses, and SIGVTALRM for
each tick outside the kernel.  A sample is the stack, at that moment, of the thread that has
used the most CPU time since the last sample; its weight is the CPU time of all threads since
then.  Waiting therefore does not count, and nothing is stopped or slowed down.  Python calls
a signal handler when a call returns or a function starts, so the time of a C function counts
for the line that called it.
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
"""The innermost frame of a stack that is in a system call."""

_INTERVAL = time.clock_getres(6)
"""Seconds of a tick, the resolution of CLOCK_MONOTONIC_COARSE.  With a shorter interval, one
timer would expire at the ticks of the other to make up for missed ones."""
_ANY_PROCESS = ctypes.c_ulong(-1)
_SET_PTRACER = 0x59616D61


class Sampler:
    """Takes samples from one SIGUSR2 to the next."""

    def __init__(self, path):
        self._path = path
        self._running = False
        self._names = {}
        signal.signal(signal.SIGUSR2, self._toggle)

    def _toggle(self, number, frame):
        self._running = not self._running
        if self._running:
            self._start()
        else:
            self._stop()

    def _start(self):
        self._stacks = Counter()
        self._samples = 0
        self._gc_seconds = 0.0
        self._was_in_user_mode = False
        self._last_cpu = _cpu_by_thread()
        gc.callbacks.append(self._on_gc)
        for signum, handler in (
            (signal.SIGVTALRM, self._on_user_tick),
            (signal.SIGPROF, self._on_tick),
        ):
            signal.signal(signum, handler)
            # Restart interrupted system calls.
            signal.siginterrupt(signum, False)
        signal.setitimer(signal.ITIMER_VIRTUAL, _INTERVAL, _INTERVAL)
        signal.setitimer(signal.ITIMER_PROF, _INTERVAL, _INTERVAL)

    def _stop(self):
        for timer in (signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
            signal.setitimer(timer, 0)
        # A pending signal must not end the process.
        for signum in (signal.SIGVTALRM, signal.SIGPROF):
            signal.signal(signum, signal.SIG_IGN)
        gc.callbacks.remove(self._on_gc)
        result = {
            "samples": self._samples,
            "gc": self._gc_seconds,
            "stacks": dict(self._stacks),
        }
        with open(f"{self._path}.new", "w") as file:
            json.dump(result, file)
        os.replace(f"{self._path}.new", self._path)

    def _on_gc(self, phase, info):
        now = time.thread_time()
        if phase == "start":
            self._gc_start = now
        else:
            self._gc_seconds += now - self._gc_start

    def _on_user_tick(self, number, frame):
        # Of two pending signals Python handles the lower number first, and that is SIGVTALRM.
        self._was_in_user_mode = True

    def _on_tick(self, number, frame):
        in_user_mode, self._was_in_user_mode = self._was_in_user_mode, False
        total = _cpu_by_thread()
        spent = {thread: cpu - self._last_cpu.get(thread, 0.0) for thread, cpu in total.items()}
        self._last_cpu = total
        busiest = max(spent, key=spent.__getitem__)
        if busiest != threading.main_thread().ident:
            frame = sys._current_frames().get(busiest)
        if frame is None or frame.f_code.co_filename == __file__:
            return
        names = [] if in_user_mode else [KERNEL]
        while frame is not None:
            names.append(self._name(frame.f_code))
            frame = frame.f_back
        self._stacks[";".join(reversed(names))] += sum(spent.values())
        self._samples += 1

    def _name(self, code):
        name = self._names.get(code)
        if name is None:
            function = getattr(code, "co_qualname", code.co_name)  # Python 3.11 and later
            name = self._names[code] = f"{code.co_filename}:{function}".replace(";", ",")
        return name


def _cpu_by_thread():
    """Return the CPU seconds of each thread."""
    cpu = {}
    for thread in threading.enumerate():
        # The thread may have ended.
        with suppress(OSError, TypeError):
            cpu[thread.ident] = time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
    return cpu


if __name__ == "__main__":
    # Let strace attach where only a parent process may; other kernels return an error.
    ctypes.CDLL(None).prctl(_SET_PTRACER, _ANY_PROCESS, 0, 0, 0)
    Sampler(sys.argv.pop(1))
    del sys.path[0]  # the server must not import the modules of this directory
    run()
