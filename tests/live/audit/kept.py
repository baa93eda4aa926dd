"""Looks for secrets in the objects of a server, when it gets SIGUSR2.

``POPSERV_TEST_SECRETS`` names a file whose lines are the secrets in hexadecimal; what is found is
written to a file beside it.
"""

import gc
import os
import signal
from pathlib import Path


def _texts(holder):
    """Yield the texts in an object, also those in containers that Python does not track."""
    for each in gc.get_referents(holder):
        if isinstance(each, str):
            yield each, each.encode("utf-8", "surrogatepass")
        elif isinstance(each, bytes | bytearray):
            yield each, each
        elif isinstance(each, tuple | list | dict | set | frozenset) and not gc.is_tracked(each):
            yield from _texts(each)


def _look(number, frame):
    path = Path(os.environ["POPSERV_TEST_SECRETS"])
    secrets = [bytes.fromhex(line) for line in path.read_text().split()]
    own = set(map(id, secrets))
    # A refusal has a traceback, whose frames are in a cycle.
    gc.collect()
    found = {
        f"{secret.hex()} in {type(holder).__name__} {gc.get_referrers(holder)[:1]!r:.300}"
        for holder in gc.get_objects()
        for text, octets in _texts(holder)
        if id(text) not in own
        for secret in secrets
        if secret in octets
    }
    partial = path.with_suffix(".new")
    partial.write_text("\n".join(sorted(found)))
    partial.rename(path.with_suffix(".found"))


def start():
    """Look at each SIGUSR2."""
    signal.signal(signal.SIGUSR2, _look)
