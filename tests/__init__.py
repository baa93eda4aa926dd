"""popserv's tests: a file for each room, transcripts, and live/ against real clients."""

from hypothesis import settings

# A machine's load says nothing about the code.
settings.register_profile("popserv", deadline=None)
settings.load_profile("popserv")
