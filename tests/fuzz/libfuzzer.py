"""Coverage guides the inputs: atheris with libFuzzer, in a process of its own for each target."""

import gc
import os
import subprocess
import sys
from contextlib import redirect_stderr
from importlib.util import find_spec
from io import StringIO

from tests.fuzz import corpus

MAX_SECONDS = 20
"""Seconds after which an input that does not return is a failure."""

MAX_MIB = 1024
"""The memory of the process, beyond which its input is a failure."""


def is_available():
    """Return whether atheris is installed."""
    return find_spec("atheris") is not None


def fuzz(target, seconds, seed):
    """Run a target in a process of its own; return whether no input has failed.

    An input that takes all memory or does not return is written to a file by libFuzzer itself,
    which prints its path, and ends the process.
    """
    command = [sys.executable, "-bb", "-m", "tests.fuzz.libfuzzer", target.name]
    code = subprocess.call([*command, f"{seconds:g}", f"{seed}"])
    if code not in (0, 1):
        print(f"again: make fuzz FUZZ='--target {target.name} --input PATH'")
    return code == 0


def quoted(word):
    """Return octets as a line of a dictionary of libFuzzer."""
    return '"' + "".join(f"\\x{octet:02x}" for octet in word) + '"\n'


def arguments(target, seed):
    """Return the command line for libFuzzer, and make the files that it names."""
    directory = corpus.WORK / "corpus" / target.name
    for data in corpus.inputs_of(target):
        corpus.write(directory, data)
    failures = corpus.WORK / "failures" / target.name
    failures.mkdir(parents=True, exist_ok=True)
    dictionary = corpus.WORK / f"{target.name}.dict"
    dictionary.write_text("".join(map(quoted, filter(None, target.words))))
    return [
        *(
            target.name,
            os.fspath(directory),
            f"-dict={dictionary}",
            f"-artifact_prefix={failures}/",
        ),
        *(f"-seed={seed % (1 << 32) or 1}", f"-max_len={target.max_octets}", "-verbosity=0"),
        *(f"-timeout={MAX_SECONDS}", f"-rss_limit_mb={MAX_MIB}", "-print_final_stats=0"),
    ]


def main(name, seconds, seed):
    """Run a target in this process, which ends with it."""
    import atheris

    # The code of popserv is changed while it is imported, so that it reports what it reaches;
    # a line for each module would hide everything else.
    with redirect_stderr(StringIO()), atheris.instrument_imports(include=["popserv"]):
        from tests.fuzz.targets import TARGETS
    from tests.fuzz.run import Failed, Run

    # What is imported is never garbage, and there is much of it to look through.
    gc.freeze()
    run = Run(TARGETS[name], seconds)

    def feed(data):
        try:
            if run.feed(data):
                return
            run.finish()
            code = 0
        except Failed as failed:
            failed.show()
            code = 1
        # libFuzzer has no function that ends it, and would report an exception as its own.
        sys.stdout.flush()
        os._exit(code)

    atheris.Setup(arguments(run.target, seed), feed)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
