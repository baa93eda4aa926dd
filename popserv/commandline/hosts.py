"""The commands that see and steer servers, for all hosts that share a store."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from twisted.internet.defer import Deferred, DeferredList

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
from popserv.control.host_service import MAX_SILENCE
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

_LISTINGS = ("workers", "certificates")
"""What ``popserv status`` of one server shows besides, and ``--json`` of each host."""


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
    names = _LISTINGS if options.json else ()
    called, *listed = await _all(
        client.call(hosts, commands.GetStatus), *(client.listing(hosts, name) for name in names)
    )
    answers = dict(called)
    items = []
    for host in hosts:
        item = {
            "host": host.name,
            "id": host.short_id,
            "state": _state_of(host),
            "seen": round(host.unseen, 1),
            # Of a host that does not answer, only this is known.
            "version": host.version,
            "uptime": round(host.uptime, 1),
        }
        if host in answers:
            item.update(answers[host]["status"])
            for name, found in zip(names, listed, strict=True):
                item[name] = [each for of, each in found if of == host]
        items.append(item)
    print_items(options, STATUS_COLUMNS, items)


def _state_of(host: Host) -> str:
    if host.unseen > MAX_SILENCE:
        return "silent"
    return "draining" if host.is_draining else "serving"


async def _all(*coroutines: Coroutine[Any, Any, Any]) -> list[Any]:
    """Return the results of coroutines, which run at the same time, or raise what one raises."""
    running = [Deferred.fromCoroutine(each) for each in coroutines]
    outcomes = await DeferredList(running, consumeErrors=True)
    return [result if is_done else result.raiseException() for is_done, result in outcomes]


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
        seconds = answer["seconds"]
        print_answer(options, {"seconds": seconds}, drain_text(seconds, workers=options.workers))


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
