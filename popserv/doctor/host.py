"""The machine: its clock, and how many files a process may open."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit

from popserv.core.findings import Finding, error, unchecked, warning
from popserv.runtime.open_files import connections_for, files_for

TIME_ERROR = 5
"""What adjtimex(2) returns if the clock is not synchronized."""

# Longer than struct timex, whose first field says what to change: nothing.
_TIMEX = 512


def clock_state() -> int | None:
    """Return the state of the clock, as of adjtimex(2); None if the system does not tell."""
    adjtimex = getattr(ctypes.CDLL(None), "adjtimex", None)
    if adjtimex is None:
        return None
    state = int(adjtimex(ctypes.create_string_buffer(_TIMEX)))
    return None if state < 0 else state


def check_clock(state: int | None) -> Iterator[Finding]:
    """Yield whether the clock is not synchronized, given its state."""
    if state is None:
        what = "the system does not tell whether it is synchronized"
        yield unchecked("clock", "clock", what, "look at it")
    elif state == TIME_ERROR:
        yield warning(
            "clock",
            "clock",
            "it is not synchronized, and the order of messages, certificates, tokens and --since "
            "depend on it",
            "run an NTP client, such as chrony or systemd-timesyncd",
        )


def hard_limit() -> int | None:
    """Return how many files a process may open at most; None if there is no limit."""
    _, hard = getrlimit(RLIMIT_NOFILE)
    return None if hard == RLIM_INFINITY else hard


def check_files(max_connections: int | None, workers: int, limit: int | None) -> Iterator[Finding]:
    """Yield whether ``--max-connections`` needs more files than each process may open."""
    if limit is None:
        return
    if max_connections is None:
        allowed = connections_for(limit)
        if allowed < 100:
            what = f"a process may open {limit} files, which is enough for {allowed} connections"
            remedy = "raise the limit (ulimit -n, LimitNOFILE of systemd)"
            yield warning("open-files", "--max-connections", what, remedy)
        return
    share = -(-max_connections // workers)
    needed = files_for(share)
    if needed > limit:
        yield error(
            "open-files",
            f"--max-connections {max_connections}",
            f"{share} connections of a process need {needed} files, and it may open {limit}",
            f"raise the limit (ulimit -n, LimitNOFILE of systemd), or give at most "
            f"{connections_for(limit) * workers}",
        )
