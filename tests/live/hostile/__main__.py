"""Attack a server and measure what it costs: ``python -m tests.live.hostile``.

It prints the memory of idle connections, and the latency of another client during an attack.
"""

import argparse
import sys

from tests.live.hostile import guessing, idle

PARTS = ("idle", "guessing")


def main(arguments):
    """Run the parts."""
    parser = argparse.ArgumentParser(prog="make attack", description=__doc__.partition(":")[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument(
        "--connections", type=int, default=10_000, help="idle connections; the default is 10000"
    )
    parser.add_argument("--names", type=int, default=100_000, help="guesses; the default is 100000")
    parser.add_argument(
        "--addresses", type=int, default=10_000, help="of the guesses; the default is 10000"
    )
    options = parser.parse_args(arguments)

    def show(text):
        print(text, flush=True)

    if "idle" in options.only:
        limit = idle.raise_file_limit()
        if limit < options.connections + 100:
            parser.error(f"this process may only open {limit} files; raise ulimit -Hn")
        idle.measure(options.connections, show)
    if "guessing" in options.only:
        guessing.measure(options.names, options.addresses, show)


if __name__ == "__main__":
    main(sys.argv[1:])
