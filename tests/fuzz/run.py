"""One run of one target: its inputs are counted and timed, and the first that fails is kept."""

import sys
import time
import traceback
from functools import partial
from math import inf

from tests.fuzz import corpus, totals
from tests.fuzz.cost import max_seconds, seconds_of

INTERVAL = 10
"""Seconds between two lines of progress."""


_print_now = partial(print, flush=True)


class Failed(Exception):
    """An input has failed, and is in a file; the message says how to run it again."""

    def show(self):
        """Print the exception that the input has caused, and the message."""
        traceback.print_exception(self.__cause__, file=sys.stdout)
        print(self, flush=True)


class TooSlow(Exception):
    """An input took more processor time than one of its octets may take."""


class Run:
    """Calls a target with inputs, for a number of seconds.

    ``output`` writes a line.  ``work`` is the directory of its files.
    """

    def __init__(self, target, seconds, output=_print_now, work=None):
        self.target = target
        self.inputs = self._counted = 0
        self._check = target.check
        self._output = output
        self._work = corpus.WORK if work is None else work
        self._start = self._last = time.monotonic()
        self._end = self._start + seconds
        self._start_of_work = time.process_time()
        # The seconds and the octets of the slowest input of each length in bits.
        self._slowest = {}

    def feed(self, data):
        """Call the target with an input; return whether there is time for more.

        :raises Failed: the input has failed.
        """
        self.inputs += 1
        start = time.monotonic()
        try:
            self._check(data)
            now = time.monotonic()
            # The processor time is no longer, but its clock takes longer to read.
            if now - start > self._slowest.get(len(data).bit_length(), (0,))[0]:
                self._time(data)
        except Exception as error:
            self._count()
            raise Failed(self.keep(data)) from error
        if now - self._last > INTERVAL:
            self.report(now)
        return now < self._end

    def _time(self, data):
        """Note the processor time of an input if none of its length has taken longer.

        :raises TooSlow: it takes too long.
        """
        bits = len(data).bit_length()
        known = self._slowest.get(bits, (0,))[0]
        seconds = inf
        # Once, there may have been a collection of garbage.
        for _ in range(3):
            seconds = min(seconds, seconds_of(self.target, data))
            if seconds <= known:
                return
        limit = max_seconds(self.target, data)
        if seconds > limit:
            raise TooSlow(f"{len(data)} octets may take {limit:.3f} seconds")
        self._slowest[bits] = seconds, data

    def stop(self):
        """End after the present input."""
        self._end = 0

    def _count(self):
        """Add the inputs since the last call to the total of the target."""
        totals.add(self._work, self.target.name, self.inputs - self._counted)
        self._counted = self.inputs

    def keep(self, data):
        """Write an input to a file; return how to run it again."""
        path = corpus.write(self._work / "failures" / self.target.name, data)
        return (
            f"{self.target.name}: input {self.inputs} has failed; it is in {path}\n"
            f"again: make fuzz FUZZ='--target {self.target.name} --input {path}'"
        )

    def report(self, now):
        """Write a line of progress."""
        rate = (self.inputs - self._counted) / (now - self._last)
        self._last = now
        self._count()
        self._output(
            f"{self.target.name:>10} {now - self._start:6.0f} s {self.inputs:>10} inputs "
            f"{rate:>8.0f}/s"
        )

    def finish(self):
        """Write the last line, and the slowest inputs to files that have no slower ones."""
        self._count()
        seconds = time.monotonic() - self._start
        worked = time.process_time() - self._start_of_work
        rates = (self.inputs / max(each, 1e-3) for each in (seconds, worked))
        directory = self._work / "slowest" / self.target.name
        directory.mkdir(parents=True, exist_ok=True)
        for bits, (taken, data) in self._slowest.items():
            path = directory / f"slow-{bits:02}"
            if not path.exists() or taken > seconds_of(self.target, path.read_bytes()):
                path.write_bytes(data)
        slowest, data = max((each for each in self._slowest.values()), default=(0, b""))
        self._output(
            f"{self.target.name:>10} {seconds:6.0f} s {self.inputs:>10} inputs "
            "{:>8.0f}/s {:>8.0f}/s of processor time".format(*rates)
            + f"  slowest {slowest * 1000:.1f} ms ({len(data)} octets)"
        )
