"""The commands that see and steer servers, for all hosts that share a store."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from popserv.commandline.control_output import (
    RELOADED,
    WHO_COLUMNS,
    drain_text,
    kicked_text,
    print_answer,
    print_items,
    unblocked_text,
)
from popserv.commandline.reacting import run_in_reactor
from popserv.commandline.user_lines import reason_of
from popserv.control import commands
from popserv.control.client import ControlError
from popserv.control.host_client import HostClient
from popserv.core.host import Host
from popserv.core.printable import one_line
from popserv.errors import POPError
from popserv.interfaces import ISharedStore
from popserv.maildrops.kinds import make_store
from popserv.maildrops.settings import StoreSettings
from popserv.maildrops.stopping import stop_with_reactor

STATUS_COLUMNS = (
    *("host", "id", "version", "state", "uptime", "connections", "sessions", "logins", "seen"),
)
"""The columns of ``popserv status``; ``seen`` is the seconds since the host was last seen."""


def run(command: str, options: argparse.Namespace) -> int:
    """Run a command on all hosts, or on one; return the exit code: 1 if some did not answer.

    :raises ValueError: the store is not shared, or options do not fit together.
    """
    from twisted.internet import reactor

    store = make_store(options.store, StoreSettings(cache_messages=0))
    if not ISharedStore.providedBy(store):
        raise ValueError(f"--store {options.store}: no servers share this store; use sql:FILE")
    if command == "drain" and options.host is None:
        raise ValueError("--host is missing: drain one host after the other")
    if command == "kick" and options.host is None and re.fullmatch(r"\d+\.\d+", options.whom):
        raise ValueError("--host is missing: two hosts can have sessions with one ID")
    stop_with_reactor(store)
    client = HostClient(store.hosts, reactor)
    code = 0
    try:
        run_in_reactor(_RUN[command](client, options), reactor)
    except (ControlError, POPError) as error:
        print(f"popserv: {one_line(reason_of(error))}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        print("popserv: interrupted; hosts may carry out the command", file=sys.stderr)
        return 1
    for host in client.silent.values():
        code = 1
        print(
            f"popserv: host {one_line(host.name)}, ID {host.short_id}, has not answered in time, "
            "or only in part",
            file=sys.stderr,
        )
    return code


async def _who(client: HostClient, options: argparse.Namespace) -> None:
    hosts = await client.hosts(options.host)
    sessions = await client.listing(hosts, "sessions")
    items = [{"host": host.name, **session} for host, session in sessions]
    print_items(options, ("host", *WHO_COLUMNS), items)


async def _kick(client: HostClient, options: argparse.Namespace) -> None:
    answers = await _call(client, options, commands.Kick, whom=options.whom)
    kicked = sum(answer["kicked"] for _, answer in answers)
    if not kicked:
        raise ControlError(f"{one_line(options.whom)} has no connection")
    print_answer(options, {"kicked": kicked}, kicked_text(kicked))


async def _status(client: HostClient, options: argparse.Namespace) -> None:
    hosts = await client.hosts(options.host)
    answers = dict(await client.call(hosts, commands.GetStatus))
    items = []
    for host in hosts:
        answer = answers.get(host, {})
        items.append(
            {
                "host": host.name,
                "id": host.short_id,
                "state": "draining" if host.is_draining else "serving",
                "seen": round(host.unseen, 1),
                # Of a host that does not answer, only this is known.
                "version": host.version,
                "uptime": round(host.uptime, 1),
                **answer.get("status", {}),
            }
        )
    print_items(options, STATUS_COLUMNS, items)


async def _reload(client: HostClient, options: argparse.Namespace) -> None:
    await _call(client, options, commands.Reload)
    print_answer(options, {}, RELOADED)


async def _log_level(client: HostClient, options: argparse.Namespace) -> None:
    answers = await _call(client, options, commands.SetLogLevel, level=options.level)
    items = [{"host": host.name, "level": answer["level"]} for host, answer in answers]
    print_items(options, ("host", "level"), items)


async def _unblock(client: HostClient, options: argparse.Namespace) -> None:
    answers = await _call(client, options, commands.Unblock, address=options.address)
    failures = max((answer["failures"] for _, answer in answers), default=0)
    print_answer(options, {"failures": failures}, unblocked_text(failures))


async def _drain(client: HostClient, options: argparse.Namespace) -> None:
    answers = await _call(
        client, options, commands.Drain, seconds=options.seconds, workers=options.workers
    )
    for _, answer in answers:
        text = drain_text(answer["seconds"], workers=options.workers)
        print_answer(options, answer, text)


async def _call(
    client: HostClient, options: argparse.Namespace, command: Any, **arguments: Any
) -> list[tuple[Host, Mapping[str, Any]]]:
    return await client.call(await client.hosts(options.host), command, **arguments)


_RUN: Mapping[str, Callable[[HostClient, argparse.Namespace], Coroutine[Any, Any, None]]] = {
    "who": _who,
    "kick": _kick,
    "status": _status,
    "reload": _reload,
    "log-level": _log_level,
    "unblock": _unblock,
    "drain": _drain,
}
