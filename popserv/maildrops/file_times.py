"""The clock of file systems, and how soon two changes have different times."""

from __future__ import annotations

import sys
import time

# CLOCK_REALTIME_COARSE: Linux takes the times of files from it.  It lags by up to a tick, and by
# much more while a virtual machine is paused.
FILE_CLOCK = 5 if sys.platform == "linux" else time.CLOCK_REALTIME

CLOCK_TICK = 20_000_000
"""Nanoseconds in which some kernels give two changes of a file or directory the same time."""

TRUSTED_AGE = 2_000_000_000
"""Nanoseconds in which any file system may give two changes of a file or directory the same time.

Some file systems store whole seconds, and a file server has a clock of its own.  Only times that
are older than this are compared with later ones.
"""
