"""popserv's tests: a file for each room, transcripts, and live/ against real clients."""
