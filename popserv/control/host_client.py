"""Asks the hosts that share a store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

from twisted.internet.task import deferLater
from twisted.protocols import amp

from popserv.control import commands
from popserv.control.client import TIMEOUT, ControlError
from popserv.control.host_messages import decode_part, encode_box
from popserv.core.host import Host
from popserv.core.printable import one_line
from popserv.errors import TryLater
from popserv.interfaces import IHostDirectory

_PAUSE = 0.1
"""Seconds between two looks for answers."""


class HostClient:
    """Sends commands to hosts, and waits for their answers for a bounded time.

    :ivar silent: the hosts that have not answered a command in time, or not completely, and those
        of whose processes some have not.
    """

    def __init__(self, directory: IHostDirectory, reactor: Any, timeout: float = TIMEOUT) -> None:
        self.silent: dict[UUID, Host] = {}
        self._directory = directory
        self._reactor = reactor
        self._timeout = timeout

    async def hosts(self, name: str | None = None) -> Sequence[Host]:
        """Return all hosts, or the one with this name or ID.

        :raises ControlError: there is none, or several have the name.
        """
        found = await self._directory.listed()
        if name is None:
            if not found:
                raise ControlError("no server uses the store now")
            return found
        named = [each for each in found if name in (each.name, each.short_id, each.id.hex)]
        if not named:
            names = ", ".join(one_line(each.name) for each in found) or "none"
            raise ControlError(f"there is no host {one_line(name)}; the hosts are: {names}")
        if len(named) > 1:
            ids = ", ".join(each.short_id for each in named)
            raise ControlError(
                f"several hosts are named {one_line(name)}; name one by its ID: {ids}; give them "
                "different names with --hostname of twistd pop3"
            )
        return named

    async def call(
        self, hosts: Sequence[Host], command: type[amp.Command], **arguments: Any
    ) -> list[tuple[Host, Mapping[str, Any]]]:
        """Send a command to hosts; return the answers of those that have answered.

        :raises ControlError: a host has refused it, or has sent an invalid answer.
        """
        return [
            (host, answers[-1])
            for host, answers in await self._ask(hosts, command, arguments)
            if answers
        ]

    async def listing(
        self, hosts: Sequence[Host], name: str
    ) -> list[tuple[Host, Mapping[str, Any]]]:
        """Return the items of a listing, with their hosts; see commands.List.

        :raises ControlError: as for :meth:`call`.
        """
        answered = await self._ask(hosts, commands.List, {"listing": name, "after": ""})
        return [
            (host, item) for host, answers in answered for part in answers for item in part["items"]
        ]

    async def _ask(
        self, hosts: Sequence[Host], command: type[amp.Command], arguments: Mapping[str, Any]
    ) -> list[tuple[Host, list[Mapping[str, Any]]]]:
        """Return the parts of the answers of each host."""
        box = command.makeArguments(dict(arguments), None)
        box[amp.COMMAND] = command.commandName
        request = uuid4()
        answers: dict[UUID, list[Mapping[str, Any]]] = {host.id: [] for host in hosts}
        by_id = {host.id: host for host in hosts}
        waiting = set(answers)
        await self._directory.ask(request, json.dumps(encode_box(box)), list(answers))
        try:
            deadline = self._reactor.seconds() + self._timeout
            while waiting and self._reactor.seconds() < deadline:
                parts = {id_: len(answers[id_]) for id_ in waiting}
                for id_, part, text in await self._directory.answers(request, parts):
                    # The host may have failed to give the one before it.
                    if part != len(answers[id_]):
                        continue
                    response, more = _parse(by_id[id_], command, text)
                    answers[id_].append(response)
                    if response.get("missing"):
                        self.silent[id_] = by_id[id_]
                    if not more:
                        waiting.discard(id_)
                    deadline = self._reactor.seconds() + self._timeout
                if waiting:
                    await deferLater(self._reactor, _PAUSE)
        finally:
            # What is not forgotten is ignored soon, and deleted later; the answers are known.
            with suppress(TryLater):
                await self._directory.forget(request)
        self.silent.update((id_, by_id[id_]) for id_ in waiting)
        return [(host, answers[host.id]) for host in hosts]


def _parse(host: Host, command: type[amp.Command], text: str) -> tuple[Mapping[str, Any], bool]:
    try:
        box, more = decode_part(text)
        if amp.ERROR in box:
            reason = box[amp.ERROR_DESCRIPTION].decode(errors="replace")
            raise ControlError(f"{one_line(host.name)}: {one_line(reason)}")
        response: Mapping[str, Any] = command.parseResponse(box, None)
    except (KeyError, ValueError):
        raise ControlError(f"{one_line(host.name)} has sent an invalid answer") from None
    return response, more
