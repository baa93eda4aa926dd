"""Break parts of a cluster while clients use it: ``python -m tests.live.chaos``.

It shows what happens, and ends with 1 if a promise was broken.
"""

import argparse
import random
import sys

from examples.cluster.processes import ClusterError
from tests.live.chaos.run import run_chaos


def main(arguments):
    """Run, and print what was violated; return the exit status."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__.partition(":")[0])
    parser.add_argument("--seconds", type=float, default=300, help="how long; the default is 300")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--only", nargs="+", default=(), metavar="FAULT", help="these faults")
    parser.add_argument("--asynchronous", action="store_true", help="the standby may lag")
    parser.add_argument("--keep", action="store_true", help="keep the files of the cluster")
    options = parser.parse_args(arguments)
    try:
        violations = run_chaos(
            options.seconds,
            options.seed,
            is_synchronous=not options.asynchronous,
            only=options.only,
            keep=options.keep,
            show=lambda text: print(text, flush=True),
        )
    except ClusterError as error:
        print(f"make chaos: {error}", file=sys.stderr)
        return 2
    for what, texts in violations.items():
        print(f"{what}: {len(texts)}", *texts[:10], sep="\n  ")
    print("violated" if violations else "nothing was violated")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
