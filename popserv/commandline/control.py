"""The commands that see and steer a running server: ``popserv who``, ``kick`` and so on."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from popserv.control import commands
from popserv.control.client import ControlClient, ControlError
from popserv.control.endpoint import DEFAULT_ENDPOINT
from popserv.core.printable import one_line
from popserv.reloading.log_level import LEVELS

Answer = Mapping[str, Any]

_COLUMNS = ("id", "user", "address", "tls", "method", "state", "age", "idle", "messages", "octets")


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Add the arguments to the parser of one of these commands.

    It sets ``run``, a function of the parsed options, which returns the exit code.
    """
    parser.add_argument(
        "--control",
        metavar="ENDPOINT",
        default=DEFAULT_ENDPOINT,
        help=f"the --control of the server; the default is {DEFAULT_ENDPOINT}",
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
    """Run one of these commands; return its exit code."""
    try:
        with ControlClient(options.control) as client:
            _RUN[command](client, options)
            if client.missing:
                print(
                    f"popserv: {client.missing} of the processes have not answered in time",
                    file=sys.stderr,
                )
            return 1 if client.missing else 0
    except ControlError as error:
        print(f"popserv: {error}", file=sys.stderr)
        return 1


def _who(client: ControlClient, options: argparse.Namespace) -> None:
    rows = []
    # The server does not wait for a pager that reads the output.
    for session in list(client.listing("sessions")):
        if options.json:
            print(json.dumps(session))
        else:
            rows.append([_cell(session.get(name)) for name in _COLUMNS])
    if not options.json:
        _print_table([[name.upper() for name in _COLUMNS], *rows])


def _kick(client: ControlClient, options: argparse.Namespace) -> None:
    answer = client.call(commands.Kick, whom=options.whom)
    kicked = answer["kicked"]
    if not kicked:
        raise ControlError(f"{one_line(options.whom)} has no connection")
    _print(options, {"kicked": kicked}, f"{kicked} connection{'' if kicked == 1 else 's'} ended")


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
            rows += [[f"{label}, {one_line(each)}", _cell(size)] for each, size in value.items()]
        elif isinstance(value, list):
            rows += [[label.removesuffix("s"), _item(each)] for each in value]
        else:
            rows.append([label, _cell(value)])
    _print_table(rows)


def _reload(client: ControlClient, options: argparse.Namespace) -> None:
    client.call(commands.Reload)
    _print(options, {}, "changed files are read again; problems are logged")


def _log_level(client: ControlClient, options: argparse.Namespace) -> None:
    answer = client.call(commands.SetLogLevel, level=options.level)
    _print(options, answer, one_line(answer["level"]))


def _unblock(client: ControlClient, options: argparse.Namespace) -> None:
    answer = client.call(commands.Unblock, address=options.address)
    failures = answer["failures"]
    _print(
        options,
        {"failures": failures},
        f"{failures} failed login{'' if failures == 1 else 's'} forgotten",
    )


def _drain(client: ControlClient, options: argparse.Namespace) -> None:
    answer = client.call(commands.Drain, seconds=options.seconds, workers=options.workers)
    what = "the workers are replaced" if options.workers else "the server stops"
    _print(options, answer, f"{what}; sessions have {answer['seconds']} seconds to end")


_RUN: Mapping[str, Callable[[ControlClient, argparse.Namespace], None]] = {
    "who": _who,
    "kick": _kick,
    "status": _status,
    "reload": _reload,
    "log-level": _log_level,
    "unblock": _unblock,
    "drain": _drain,
}


def _print(options: argparse.Namespace, answer: Answer, text: str) -> None:
    print(json.dumps(dict(answer)) if options.json else text)


def _cell(value: object) -> str:
    return "-" if value is None else one_line(str(value))


def _item(item: Mapping[str, Any]) -> str:
    """Return an item of a listing in one line."""
    parts = []
    for name, value in item.items():
        text = ", ".join(value) if isinstance(value, list) else str(value)
        if name != "position":
            parts.append(f"{name} {text}")
    return one_line("; ".join(parts))


def _print_table(rows: list[list[str]]) -> None:
    """Print rows with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
