"""popserv's tests: a file for each room, transcripts, and live/ against real clients."""

import warnings

from hypothesis import settings

# A machine's load says nothing about the code.
settings.register_profile("popserv", deadline=None)
settings.load_profile("popserv")

# hypothesis keeps drawn bytes and numbers in one cache, where some compare.
warnings.filterwarnings("ignore", category=BytesWarning, module=".*hypothesis")
