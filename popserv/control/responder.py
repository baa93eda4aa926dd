"""The responders to the commands of the control socket."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.protocols import amp
from twisted.python.failure import Failure

from popserv.control import commands
from popserv.control.commands import MAX_LISTING, Refused
from popserv.control.operations import DEFAULT_DRAIN, Operations, Workers
from popserv.control.overview import Overviews
from popserv.control.process import TOPIC
from popserv.control.sessions import order_of
from popserv.core.printable import printable
from popserv.runtime.bus import Answers
from popserv.transports.networks import parse_address

_log = Logger()

MAX_DRAIN = 86_400
"""The maximum of the seconds of ``popserv drain``."""

Result = Mapping[str, Any]


class Responder(amp.CommandLocator):
    """Carries out commands with the operations of a server."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        # Whether workers are told of the seconds before they are replaced.
        self._is_preparing = False
        self._overviews = Overviews(operations.ask, operations.workers, operations.log_level)

    def locateResponder(self, name: bytes) -> Callable[[Any], Any] | None:
        """Return the responder to a command; it refuses invalid arguments."""
        responder = super().locateResponder(name)
        return None if responder is None else partial(_respond, responder)

    @commands.GetStatus.responder
    def get_status(self) -> Deferred[Result]:
        """See GetStatus."""
        return self._ask("status", None).addCallback(self._status)

    def _status(self, answers: Answers) -> Result:
        return {"status": self._overviews.status(answers.given), "missing": answers.missing}

    @commands.List.responder
    def list(self, listing: str, after: str) -> Deferred[Result]:
        """See List."""
        try:
            return self._list(listing, after)
        except ValueError:
            raise Refused(f"no part of a listing follows {after[:100]!r}") from None

    def _list(self, listing: str, after: str) -> Deferred[Result]:
        if listing == "sessions":
            return Deferred.fromCoroutine(self._list_sessions(*order_of(after)))
        if listing == "certificates":
            # All processes have the same.
            return self._ask("certificates", int(after or -1)).addCallback(_certificates_part)
        if listing == "workers":
            first = int(after or -1)
            later = [item for item in self._overviews.workers() if item["pid"] > first]
            return succeed(_part(iter(later), lambda item: str(item["pid"]), 0))
        raise Refused(f"there is no listing {listing[:100]!r}")

    async def _list_sessions(self, pid: int, number: int) -> Result:
        """Return connections of one process, and where the next part begins."""
        answers = await self._ask("sessions", (pid, number))
        items = [item for each in answers.given for item in each.get("sessions", ())]
        part = dict(_part(iter(items), lambda item: str(item["id"]), answers.missing))
        if items and not part["following"]:
            # The process may have more connections than it has listed.
            part["following"] = items[-1]["id"]
        elif not items:
            later = [each["pid"] for each in answers.given if each["pid"] > pid]
            part["following"] = f"{min(later)}.0" if later else ""
        return part

    @commands.Kick.responder
    def kick(self, whom: str) -> Deferred[Result]:
        """See Kick."""
        if not whom:
            raise Refused("nobody is named; name a user, an address, a network or an ID")
        return self._ask("kick", whom).addCallback(_kicked, whom)

    @commands.Unblock.responder
    def unblock(self, address: str) -> Deferred[Result]:
        """See Unblock."""
        # The network of an IPv6 address is shown as 2001:db8::/64.
        host = parse_address(address.partition("/")[0])
        if host is None:
            raise Refused(f"{address[:100]!r} is no IP address")
        return self._ask("unblock", str(host)).addCallback(_unblocked, address)

    @commands.Reload.responder
    def reload(self) -> Result:
        """See Reload."""
        self._operations.reload()
        return {}

    @commands.SetLogLevel.responder
    def set_log_level(self, level: str | None) -> Result:
        """See SetLogLevel."""
        log_level = self._operations.log_level
        if log_level is None:
            raise Refused("twistd writes the log by itself, because of --syslog or --logger")
        if level is not None:
            try:
                log_level.set_level(level)
            except ValueError as error:
                raise Refused(str(error)) from error
            _log.warn("popserv log-level: the level is now {lowest}", lowest=level)
        return {"level": log_level.level}

    @commands.Drain.responder
    def drain(self, seconds: int | None, workers: bool) -> Deferred[Result]:
        """See Drain."""
        operations = self._operations
        if seconds is None:
            given = int(operations.drain_seconds or DEFAULT_DRAIN)
        elif 0 <= seconds <= MAX_DRAIN:
            given = seconds
        else:
            raise Refused(f"the seconds must be from 0 to {MAX_DRAIN}")
        if workers:
            self._replaceable_workers()
        allowed = operations.allow_drain(given)
        if workers:
            self._is_preparing = True
            allowed.addBoth(self._end_preparing)
        return allowed.addCallback(self._start_drain, given, workers)

    def _end_preparing(self, result: Answers | Failure) -> Answers | Failure:
        self._is_preparing = False
        return result

    def _start_drain(self, answers: Answers, seconds: int, workers: bool) -> Result:
        if workers:
            self._replaceable_workers().replace_workers()
        else:
            self._operations.stop(seconds)
        return {"seconds": seconds, "missing": answers.missing}

    def _replaceable_workers(self) -> Workers:
        workers = self._operations.workers
        if workers is None:
            raise Refused("the server has no workers; start it with --workers")
        if self._is_preparing or workers.is_replacing:
            raise Refused("the workers are being replaced already")
        return workers

    def _ask(self, topic: str, question: Any) -> Deferred[Answers]:
        return self._operations.ask(TOPIC + topic, question)


def _respond(responder: Callable[[Any], Any], box: Any) -> Any:
    try:
        return responder(box)
    except (KeyError, TypeError, ValueError):
        # AMP would log an error of the client as one of the server.
        raise amp.RemoteAmpError(
            b"INVALID", "an argument is missing or invalid", local=Failure()
        ) from None


def _part(items: Iterator[Any], key: Callable[[Any], str], missing: int) -> Result:
    """Return as many items as one answer can have."""
    part: list[Any] = []
    length, following = 0, ""
    for item in items:
        length += len(commands.JSON().toString(item)) + 1
        if length > MAX_LISTING:
            following = key(part[-1])
            break
        part.append(item)
    return {"items": part, "following": following, "missing": missing}


def _certificates_part(answers: Answers) -> Result:
    items = answers.given[0] if answers.given else []
    part = dict(_part(iter(items), lambda item: str(item["position"]), answers.missing))
    if items and not part["following"]:
        part["following"] = str(items[-1]["position"])
    return part


def _unblocked(answers: Answers, address: str) -> Result:
    if None in answers.given:
        raise Refused(f"{address} is in a network whose failed logins are not counted")
    failures = max(answers.given, default=0)
    _log.info(
        "popserv unblock {address}: {failures} failed logins are forgotten",
        address=address,
        failures=failures,
    )
    return {"failures": failures, "missing": answers.missing}


def _kicked(answers: Answers, whom: str) -> Result:
    kicked = sum(answers.given)
    name = printable(whom.encode("utf-8", "backslashreplace"))
    _log.info('popserv kick "{whom}": {kicked} connections ended', whom=name, kicked=kicked)
    return {"kicked": kicked, "missing": answers.missing}
