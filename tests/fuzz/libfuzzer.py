"""Coverage guides the inputs: atheris with libFuzzer, in a process of its own for each target."""

import gc
import os
import signal
import sys
from contextlib import contextmanager, redirect_stderr
from functools import partial
from importlib.util import find_spec
from io import StringIO

from twisted.logger import globalLogBeginner

from tests.fuzz import corpus
from tests.fuzz.cost import MAX_MIB
from tests.fuzz.run import Failed, Run
from tests.fuzz.stopping import SIGNALS

MAX_SECONDS = 300
"""Seconds after which an input that does not return is a failure: the process may be suspended."""

_GARBAGE = 20_000
"""Objects after which garbage is collected: an input leaves little."""


def is_available():
    """Return whether atheris is installed."""
    return find_spec("atheris") is not None


@contextmanager
def instrumented(*, unless):
    """Change the code of popserv that is imported, so that it reports what it reaches."""
    if unless or not is_available():
        yield
        return
    import atheris

    # A line for each module would hide everything else.  The clients of tests take time, too.
    with (
        redirect_stderr(StringIO()),
        atheris.instrument_imports(include=["popserv"], exclude=["popserv.testing"]),
    ):
        yield
    # What is imported is never garbage, and there is much of it to look through.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE)


def fuzz(target, seconds, seed, stop):
    """Run a target in a process of its own; return whether no input has failed.

    An input that takes all memory or does not return is written to a file by libFuzzer itself,
    which prints its path, and ends the process.
    """
    sys.stdout.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    process = os.fork()
    if process == 0:
        _run(target, seconds, seed)
    stop.call(partial(os.kill, process, signal.SIGTERM))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    stop.call(lambda: None)
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
        # libFuzzer would begin with short inputs, and lengthen them after very many.
        "-len_control=0",
        # Signals are for the Run.
        *("-handle_int=0", "-handle_term=0"),
    ]


def _run(target, seconds, seed):
    """Run a target in this process, which ends with it."""
    import atheris

    run = Run(target, seconds)
    # A terminal sends SIGINT to all processes; the first one asks this one to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: run.stop())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    # Twisted would keep the last events, and look for critical ones.
    globalLogBeginner.beginLoggingTo([], discardBuffer=True, redirectStandardIO=False)

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

    atheris.Setup(arguments(target, seed), feed)
    atheris.Fuzz()
