"""``popserv collect``: removes objects of a store that no message has."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from popserv.commandline.reacting import run_in_reactor
from popserv.commandline.user_lines import ProgressLine, reason_of
from popserv.core.printable import one_line
from popserv.errors import TryLater
from popserv.interfaces import ICollectingStore
from popserv.maildrops.kinds import make_store
from popserv.maildrops.settings import StoreSettings
from popserv.maildrops.stopping import stop_with_reactor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments to the parser of ``popserv collect``.

    It sets ``run``, a function of the parsed options, which returns the exit code.
    """
    parser.add_argument(
        "--store",
        metavar="STORE",
        required=True,
        help="the store, as --store of twistd pop3 names it: sql:FILE",
    )
    parser.add_argument(
        "--full",
        action="store_true",
        help="list all objects, and have those removed later that the database does not know; "
        "after a failover that has lost changes, and after the database was restored",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Remove objects, print how many, and return the exit code."""
    try:
        store = _open_store(options.store)
        run_in_reactor(_collect(store, full=options.full))
    except ValueError as error:
        print(f"popserv: --store: {error}", file=sys.stderr)
        return 2
    except TryLater as error:
        print(f"popserv: {one_line(reason_of(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("popserv: interrupted; the next collection continues", file=sys.stderr)
        return 1
    return 0


def _open_store(description: str) -> Any:
    """Return the store.

    :raises ValueError: there is none, or it has no objects.
    """
    store = make_store(description, StoreSettings(cache_messages=0))
    if not ICollectingStore.providedBy(store):
        raise ValueError("this kind of store has no objects; use sql:FILE")
    stop_with_reactor(store)
    return store


async def _collect(store: Any, *, full: bool) -> None:
    line = ProgressLine()
    try:
        if full:
            unknown = await store.find_unknown(lambda number: line.write(f"{number} compared"))
            line.clear()
            print(f"{_objects(unknown)} without a message found, to be removed later", flush=True)
        removed = await store.collect(lambda number: line.write(f"{number} removed"))
    finally:
        line.clear()
    print(f"{_objects(removed)} removed")


def _objects(number: int) -> str:
    return f"{number} object" if number == 1 else f"{number} objects"
