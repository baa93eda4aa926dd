"""popserv's tests: one file per module of popserv, transcripts, and live/ with real clients."""

import os
import signal
import warnings

from hypothesis import settings

# A deadline would fail on a busy machine.
settings.register_profile("popserv", deadline=None)
# The same examples in every run, so that the coverage does not vary.
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if "CI" in os.environ else "popserv")

# hypothesis compares bytes with numbers in its cache.
warnings.filterwarnings("ignore", category=BytesWarning, module=".*hypothesis")

# A shell starts background commands with SIGINT ignored, and nohup starts them with SIGHUP ignored.
# Programs that the tests start would inherit that; a handler that does nothing is not inherited.
for _number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, lambda number, frame: None)
