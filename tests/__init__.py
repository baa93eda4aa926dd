"""popserv's tests: one file per module of popserv, transcripts, and live/ with real clients."""

import os
import warnings

from hypothesis import settings

# A deadline would fail on a busy machine.
settings.register_profile("popserv", deadline=None)
# The same examples in every run, so that the coverage does not vary.
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if "CI" in os.environ else "popserv")

# hypothesis compares bytes with numbers in its cache.
warnings.filterwarnings("ignore", category=BytesWarning, module=".*hypothesis")
