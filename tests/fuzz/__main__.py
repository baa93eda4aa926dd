"""Fuzz popserv: ``make fuzz``, or ``python -m tests.fuzz --help``."""

import sys

from tests.fuzz import libfuzzer

if __name__ == "__main__":
    with libfuzzer.instrumented(unless="--mutate" in sys.argv):
        from tests.fuzz import command
    sys.exit(command.main())
