"""``popserv schema``: makes, upgrades or checks the schema of a database for maildrops."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from popserv.commandline.reacting import run_in_reactor
from popserv.errors import TryLater
from popserv.runtime.config_files import FileError
from popserv.runtime.extras import how_to_install

PREFIX = "sql:"

_UNKNOWN = "whether the tables were changed is unknown"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command, and the function that runs it."""
    parser.add_argument(
        "action",
        choices=("create", "upgrade", "check"),
        help="create: make the tables in an empty database; upgrade: bring them to the version of "
        "this popserv; check: say whether a server could use them, and whether the database could "
        "lose mail",
    )
    parser.add_argument(
        "--store",
        metavar="STORE",
        required=True,
        help="the value of --store of twistd pop3: sql:FILE",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; return its exit code: 1 after an error, or if ``check`` found a problem.

    :raises ValueError: the store is another one.
    """
    if not options.store.startswith(PREFIX):
        raise ValueError(f"--store {options.store}: only the store sql:FILE has a schema")
    from twisted.internet import reactor

    try:
        from popserv.database import OutcomeUnknown, SchemaError, read_config  # noqa: PLC0415
    except ImportError as error:
        print(f"popserv: {error}; run: {how_to_install('sql')}", file=sys.stderr)
        return 1
    try:
        config = read_config(options.store.removeprefix(PREFIX))
        problems = run_in_reactor(_run(options.action, config, reactor), reactor)
    except (FileError, SchemaError) as error:
        print(f"popserv: {error}", file=sys.stderr)
        return 1
    except TryLater as error:
        reason = str(error.__cause__ or "it does not answer").strip()
        if isinstance(error, OutcomeUnknown):
            reason += f"; {_UNKNOWN}: when it can be used again, run: {_check_of(options)}"
        print(f"popserv: {config.path}: the database cannot be used: {reason}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        told = "" if options.action == "check" else f"; {_UNKNOWN}, run: {_check_of(options)}"
        print(f"popserv: interrupted{told}", file=sys.stderr)
        return 1
    for problem in problems:
        print(f"{config.path}: {problem}")
    return 1 if problems else 0


def _check_of(options: argparse.Namespace) -> str:
    return f"popserv schema check --store {options.store}"


async def _run(action: str, config: Any, reactor: Any) -> list[str]:
    """Return what is wrong, if it is only to be checked."""
    from popserv.database import Database  # noqa: PLC0415
    from popserv.database.schema import (  # noqa: PLC0415
        create_schema,
        durability_problems,
        require_schema,
        upgrade_schema,
    )

    database = Database(config, reactor)
    try:
        if action == "create":
            await create_schema(database)
        elif action == "upgrade":
            await upgrade_schema(database)
        else:
            await require_schema(database)
            return await durability_problems(database)
    finally:
        await database.close()
    return []
