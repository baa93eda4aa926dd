"""The functions in C with the compiler's sanitizers and random texts: ``--target native``.

They are called from C, by ``native.c``, hundreds of thousands of times a second.  A text with which
one fails is printed; a wrong access to memory ends the process, with the sanitizer's report.
"""

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from importlib import import_module
from itertools import count
from pathlib import Path

from tests.fuzz import corpus, totals
from tests.fuzz.run import INTERVAL

NAME = "native"

FUNCTIONS = (
    *("response", "count_message", "frame_message", "frame_top", "frame_lines", "split_line"),
)
"""What is called, in the order of the checks in native.c."""

_SOURCES = Path(__file__).parent
_HEADERS = Path(sysconfig.get_path("include"))
_SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover")

_SLICE = 50_000
"""The texts between two looks at the clock."""


def is_available():
    """Return whether the functions can be compiled."""
    return shutil.which("gcc") is not None and (_HEADERS / "Python.h").exists()


def build(directory, code=_SOURCES.parent.parent / "popserv"):
    """Compile the functions in ``code``, a directory, and native.c; put the module there."""
    directory.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [
            *("gcc", "-O2", *_SANITIZERS, "-shared", "-fPIC", f"-I{_HEADERS}", f"-I{code}"),
            *(_SOURCES / "native.c", "-o", directory / "native.so"),
        ],
        check=True,
    )


def start(directory, seconds, seed, **settings):
    """Start a process that runs the module in a directory; return it."""
    library = subprocess.check_output(["gcc", "-print-file-name=libasan.so"], text=True)
    environment = {
        **os.environ,
        "LD_PRELOAD": library.strip(),
        # Python frees no memory at its end, and stacks of allocations take longer than the rest.
        "ASAN_OPTIONS": "detect_leaks=0:malloc_context_size=0",
        # What Python allocates is then watched as well.
        "PYTHONMALLOC": "malloc",
    }
    command = (sys.executable, "-bb", "-m", "tests.fuzz.native")
    return subprocess.Popen(
        [*command, os.fspath(directory), f"{seconds:g}", f"{seed}"], env=environment, **settings
    )


def fuzz(seconds, seed, stop):
    """Run the functions; return whether none has failed."""
    directory = corpus.WORK / "native"
    build(directory)
    with start(directory, seconds, seed) as process:
        stop.call(process.terminate)
        code = process.wait()
    stop.call(lambda: None)
    if code and not (stop.is_wanted and code == -signal.SIGTERM):
        print(f"again: make fuzz FUZZ='--target {NAME} --seed {seed}'")
        return False
    return True


def main(directory, seconds, seed):
    """Run the module in a directory; return the exit code."""
    ends = []
    # A terminal sends SIGINT to all processes; the first one asks this one to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: ends.append(True))
    sys.path.insert(0, directory)
    run = import_module("native").run
    start = last = time.monotonic()
    worked = time.process_time()
    for number in count(1):
        failed = run(seed * 1_000_003 + number, _SLICE)
        totals.add(corpus.WORK, NAME, _SLICE)
        if failed is not None:
            print(f"{FUNCTIONS[failed[0]]} fails with {failed[1]!r}")
            return 1
        now = time.monotonic()
        is_end = now - start >= seconds or ends
        if now - last > INTERVAL or is_end:
            last = now
            rate = number * _SLICE / (time.process_time() - worked)
            print(
                f"{NAME:>10} {now - start:6.0f} s {number * _SLICE:>10} inputs "
                f"{number * _SLICE / (now - start):>8.0f}/s {rate:>8.0f}/s of processor time",
                flush=True,
            )
        if is_end:
            return 0
    raise AssertionError("unreachable")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3])))
