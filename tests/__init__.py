"""popserv's tests: a file for each room, transcripts, and live/ against real clients."""

import os
import warnings

from hypothesis import settings

# A machine's load says nothing about the code.
settings.register_profile("popserv", deadline=None)
# The same examples each time, or a branch might be covered one day and not the next.
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if "CI" in os.environ else "popserv")

# hypothesis keeps drawn bytes and numbers in one cache, where some compare.
warnings.filterwarnings("ignore", category=BytesWarning, module=".*hypothesis")
