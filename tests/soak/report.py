"""The table of a run: how much was done, how long polls took, and what the server takes."""

import statistics
import time

COLUMNS = (
    *("seconds", "sessions", "steps", "kills", "per second", "p50 ms", "p99 ms"),
    *("processes", "memory MiB", "files", "threads"),
)
HEADER = " ".join(name.rjust(10) for name in COLUMNS)


class Report:
    """A line for each interval of a run, of which :meth:`line` returns the next.

    Latencies are those of polls, from the connection to its end.  Memory, descriptors and threads
    are those of all processes of the server.
    """

    def __init__(self, run):
        self._run = run
        self._start = self._last = time.monotonic()
        self._sessions = 0

    @property
    def seconds(self):
        """The seconds since the start."""
        return time.monotonic() - self._start

    @property
    def seconds_since_line(self):
        """The seconds since the last line."""
        return time.monotonic() - self._last

    def line(self):
        """Return a line about the time since the last one."""
        run, now = self._run, time.monotonic()
        processes, memory, files, threads = run.process.usage()
        sessions = run.counts["sessions"]
        rate = (sessions - self._sessions) / (now - self._last)
        self._last, self._sessions = now, sessions
        latencies = sorted(run.latencies) or [0]
        run.latencies.clear()
        values = (
            *(f"{self.seconds:.0f}", sessions, run.counts["steps"], run.counts["kills"]),
            *(f"{rate:.0f}", f"{statistics.median(latencies) * 1000:.2f}"),
            f"{latencies[len(latencies) * 99 // 100] * 1000:.2f}",
            *(processes, f"{memory / (1 << 20):.1f}", files, threads),
        )
        return " ".join(str(value).rjust(10) for value in values)
