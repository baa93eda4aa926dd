"""Has a server found and steered by the store that it shares with servers on other hosts."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.protocols import amp
from twisted.python.failure import Failure

from popserv import __version__
from popserv.control import commands
from popserv.control.host_messages import decode_box, encode_part
from popserv.control.responder import Responder
from popserv.errors import TryLater
from popserv.interfaces import IHostDirectory

_log = Logger()

INTERVAL = 1.0
"""Seconds between two announcements."""

MAX_SILENCE = 3.0
"""Seconds without a successful announcement after which the store counts as not reachable.

The host then counts as silent.
"""


class StoreContact:
    """Knows whether a store could be reached of late; ``now`` returns seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._last: float | None = None

    def note(self) -> None:
        """Note that the store has answered just now."""
        self._last = self._now()

    def is_reachable(self) -> bool:
        """Return whether the store has answered in the last MAX_SILENCE seconds."""
        return self._last is not None and self._now() - self._last <= MAX_SILENCE


class HostService(Service):
    """Announces a server once a second, and carries out what it is asked.

    A request is carried out at most once.

    :param directory: of the store.
    :param name: the name of the host.
    :param is_draining: returns whether the server accepts no more connections.
    :param contact: is told whenever the store has answered.
    """

    def __init__(
        self,
        directory: IHostDirectory,
        name: str,
        responder: Responder,
        is_draining: Callable[[], bool],
        contact: StoreContact,
        reactor: Any,
    ) -> None:
        self._directory = directory
        self._host_name = name
        self._responder = responder
        self._is_draining = is_draining
        self._contact = contact
        self._id = uuid4()
        self._loop = LoopingCall(lambda: Deferred.fromCoroutine(self._announce()))
        self._loop.clock = reactor
        self._ended: Deferred[Any] | None = None
        # What was begun, as long as it is asked for.
        self._begun: set[UUID] = set()
        self._running: set[Deferred[None]] = set()
        self._has_failed = False

    def startService(self) -> None:
        """Start to announce the server."""
        super().startService()
        self._ended = self._loop.start(INTERVAL)

    def stopService(self) -> Deferred[None]:
        """Stop, once what was begun is answered, and withdraw the host."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._loop.running:
            self._loop.stop()
        if self._ended is not None:
            await self._ended
        while self._running:
            await next(iter(self._running))
        if self._contact.is_reachable():
            await self._attempt(self._directory.withdraw(self._id))

    async def _announce(self) -> None:
        requests = await self._attempt(
            self._directory.announce(
                self._id, self._host_name, __version__, bool(self._is_draining())
            )
        )
        if requests is None:
            return
        self._contact.note()
        self._begun &= {id_ for id_, _ in requests}
        for id_, text in requests:
            if id_ not in self._begun:
                self._begun.add(id_)
                self._run(id_, text)

    def _run(self, id_: UUID, text: str) -> None:
        done = Deferred.fromCoroutine(self._carry_out(id_, text))
        self._running.add(done)
        done.addBoth(lambda _: self._running.discard(done))

    async def _carry_out(self, id_: UUID, text: str) -> None:
        """Carry out a request, and give all parts of the answer."""
        part = 0
        request = _parse(text)
        while request is not None:
            box = await self._respond(request)
            request = _following(request, box)
            answer = encode_part(box, more=request is not None)
            await self._attempt(self._directory.answer(id_, self._id, part, answer))
            part += 1

    async def _respond(self, request: amp.AmpBox) -> amp.AmpBox:
        """Return the box that answers one; of an error as AMP's BoxDispatcher does."""
        responder = self._responder.locateResponder(request[amp.COMMAND])
        if responder is None:
            return _error(b"UNHANDLED", "this version of popserv has no such command")
        try:
            answer: amp.AmpBox = await responder(request)
        except amp.RemoteAmpError as error:
            return _error(error.errorCode, error.description)
        except Exception:
            _log.failure("a command of another host cannot be carried out")
            return _error(b"UNKNOWN", "the command has failed; the log of the host says why")
        return answer

    async def _attempt(self, awaitable: Any) -> Any:
        """Return what the store returns, or None if it cannot."""
        try:
            result = await awaitable
        except TryLater:
            # The store logs that it is not available.
            return None
        except Exception:
            if not self._has_failed:
                self._has_failed = True
                _log.failure(
                    "the store cannot be used to steer this server: popserv who --store does not "
                    "show its sessions, and /healthz says that it is not healthy",
                    Failure(),
                )
            return None
        self._has_failed = False
        return result


def _parse(text: str) -> amp.AmpBox | None:
    """Return the box of a request; None if it is none, as of another version of popserv."""
    try:
        box = decode_box(json.loads(text))
    except ValueError:
        return None
    return box if amp.COMMAND in box else None


def _following(request: amp.AmpBox, answer: amp.AmpBox) -> amp.AmpBox | None:
    """Return the request for the next part of a listing, None after the last."""
    if request[amp.COMMAND] != commands.List.commandName or not answer.get(b"following"):
        return None
    return amp.AmpBox({**request, b"after": answer[b"following"]})


def _error(code: bytes, description: str) -> amp.AmpBox:
    return amp.AmpBox(
        {amp.ERROR: b"1", amp.ERROR_CODE: code, amp.ERROR_DESCRIPTION: description.encode()}
    )
