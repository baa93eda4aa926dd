"""The commands that see and steer a running server: ``popserv who``, ``kick`` and so on."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping

from popserv.commandline.control_output import (
    RELOADED,
    WHO_COLUMNS,
    cell,
    drain_text,
    item_text,
    kicked_text,
    print_answer,
    print_items,
    print_table,
    unblocked_text,
)
from popserv.control import commands
from popserv.control.client import ControlClient, ControlError
from popserv.control.endpoint import DEFAULT_ENDPOINT
from popserv.core.printable import one_line
from popserv.reloading.log_level import LEVELS


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Add the arguments to the parser of one of these commands.

    It sets ``run``, a function of the parsed options, which returns the exit code.
    """
    server = parser.add_mutually_exclusive_group()
    server.add_argument(
        "--control",
        metavar="ENDPOINT",
        default=DEFAULT_ENDPOINT,
        help=f"the --control of the server; the default is {DEFAULT_ENDPOINT}",
    )
    server.add_argument(
        "--store",
        metavar="STORE",
        help="instead, all servers on all hosts with this --store: sql:FILE",
    )
    parser.add_argument(
        "--host",
        metavar="HOST",
        help="with --store, only the host with this name or ID in popserv status",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    if command == "kick":
        parser.add_argument(
            "whom",
            metavar="USER|ADDRESS|ID",
            help="a user, an IP address or network, or an ID of popserv who",
        )
    elif command == "log-level":
        parser.add_argument(
            "level",
            nargs="?",
            choices=LEVELS,
            help="the lowest level that is logged; without it, print the level",
        )
    elif command == "unblock":
        parser.add_argument("address", metavar="ADDRESS", help="the IP address of a client")
    elif command == "drain":
        parser.add_argument(
            "--seconds",
            type=int,
            metavar="N",
            help="the seconds that sessions have; the default is the server's --drain, or 60",
        )
        parser.add_argument(
            "--workers",
            action="store_true",
            help="replace the workers one after the other, and serve on",
        )
    parser.set_defaults(run=lambda options: run(command, options))


def run(command: str, options: argparse.Namespace) -> int:
    """Run one of these commands; return its exit code.

    :raises ValueError: options do not fit together.
    """
    if options.store is not None:
        # Stores take longer to import than the rest.
        from popserv.commandline.hosts import run as run_on_hosts  # noqa: PLC0415

        return run_on_hosts(command, options)
    if options.host is not None:
        raise ValueError("--host requires --store, which names the store that the hosts share")
    code = missing = 0
    try:
        with ControlClient(options.control) as client:
            try:
                _RUN[command](client, options)
            finally:
                missing = client.missing
    except ControlError as error:
        print(f"popserv: {error}", file=sys.stderr)
        code = 1
    if missing:
        # After an error as well: a connection may be one of theirs.
        print(f"popserv: {missing} of the processes have not answered in time", file=sys.stderr)
        code = 1
    return code


def _who(client: ControlClient, options: argparse.Namespace) -> None:
    # The server does not wait for a pager that reads the output.
    print_items(options, WHO_COLUMNS, list(client.listing("sessions")))


def _kick(client: ControlClient, options: argparse.Namespace) -> None:
    kicked = client.call(commands.Kick, whom=options.whom)["kicked"]
    if not kicked:
        raise ControlError(f"{one_line(options.whom)} has no connection")
    print_answer(options, {"kicked": kicked}, kicked_text(kicked))


def _status(client: ControlClient, options: argparse.Namespace) -> None:
    status = {
        **client.call(commands.GetStatus)["status"],
        "workers": list(client.listing("workers")),
        "certificates": list(client.listing("certificates")),
    }
    if options.json:
        print(json.dumps(status))
        return
    rows = []
    for name, value in status.items():
        label = name.replace("_", " ")
        if isinstance(value, dict):
            rows += [[f"{label}, {one_line(each)}", cell(size)] for each, size in value.items()]
        elif isinstance(value, list):
            rows += [[label.removesuffix("s"), item_text(each)] for each in value]
        else:
            rows.append([label, cell(value)])
    print_table(rows)


def _reload(client: ControlClient, options: argparse.Namespace) -> None:
    client.call(commands.Reload)
    print_answer(options, {}, RELOADED)


def _log_level(client: ControlClient, options: argparse.Namespace) -> None:
    answer = client.call(commands.SetLogLevel, level=options.level)
    print_answer(options, answer, one_line(answer["level"]))


def _unblock(client: ControlClient, options: argparse.Namespace) -> None:
    failures = client.call(commands.Unblock, address=options.address)["failures"]
    print_answer(options, {"failures": failures}, unblocked_text(failures))


def _drain(client: ControlClient, options: argparse.Namespace) -> None:
    answer = client.call(commands.Drain, seconds=options.seconds, workers=options.workers)
    seconds = answer["seconds"]
    print_answer(options, {"seconds": seconds}, drain_text(seconds, workers=options.workers))


_RUN: Mapping[str, Callable[[ControlClient, argparse.Namespace], None]] = {
    "who": _who,
    "kick": _kick,
    "status": _status,
    "reload": _reload,
    "log-level": _log_level,
    "unblock": _unblock,
    "drain": _drain,
}
