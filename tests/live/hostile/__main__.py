"""Attack a server and measure what it costs: ``python -m tests.live.hostile``.

It prints the memory of idle connections, the latency of another client during an attack, and how
long refusals take by their reasons.  Its exit code is 1 if the other client is too slow, if guesses
are not checked, or if the time tells a reason.
"""

import argparse
import sys

from tests.live.hostile import guessing, idle, timing

PARTS = ("idle", "guessing", "timing")


def main(arguments):
    """Run the parts; return the exit code."""
    parser = argparse.ArgumentParser(prog="make attack", description=__doc__.partition(":")[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument(
        "--timing", action="store_const", dest="only", const=["timing"], help="--only timing"
    )
    parser.add_argument(
        "--samples", type=int, default=10_000, help="of each refusal; the default is 10000"
    )
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
        idle.measure(options.connections, show)
    passed = True
    if "guessing" in options.only:
        passed = guessing.measure(options.names, options.addresses, show)
    if "timing" in options.only:
        passed = not timing.measure(options.samples, show) and passed
    return int(not passed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
