"""The exclusive-access locks of the sessions of a process: leases in the rows of maildrops.

The module has more than 300 lines, because a lease is taken, renewed and released depending on what
is known of the others.
"""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol
from uuid import UUID, uuid4

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.logger import Logger

from popserv.database.errors import OutcomeUnknown
from popserv.errors import LoginTooSoon, MaildropBusy, TryLater
from popserv.maildrops.sql.statements import (
    CREATE_WITH_LEASE,
    HELD_LEASES,
    LOGIN_DELAY,
    RELEASE_BY_NAME,
    RELEASE_LEASES,
    RENEW_LEASES,
    TAKE_LEASE,
)

_log = Logger()

_RENEWALS = 3
"""How often a lease is renewed before it would expire."""

GATHERING_TIME = 0.02
"""The seconds in which sessions end whose leases are released by one statement."""

MAX_TOGETHER = 1000
"""The leases that one statement renews or releases."""

RENEWAL_PAUSE = 1.0
"""The seconds after which leases whose rows were locked are renewed again."""

RELEASE_PAUSE = 0.2
"""The seconds after which their release is tried again: before a login elsewhere gives up."""

UNANSWERED_PAUSE = 1.0
"""The seconds after which it is tried again if the database has not answered."""

STOP_PAUSES = (0.1, 0.1, 0.2, 0.3, 0.5)
"""The seconds after which the end of the process tries again to release such leases."""

BUSY_PAUSES = (0.1, 0.3)
"""The seconds after which a login tries again: the session may have ended in another process."""


class Execute(Protocol):
    """Executes a statement; see :meth:`popserv.database.Database.execute`."""

    def __call__(
        self, statement: str, parameters: Any = (), *, repeat: bool = True, durable: bool = False
    ) -> Awaitable[list[tuple[Any, ...]]]:
        """Execute it, and return its rows."""


@dataclass(slots=True, eq=False)
class Lease:
    """The lock of a user's maildrop, by the id of its row.

    ``since`` is the time of the clock before the statement that has taken or renewed it.
    """

    name: bytes
    maildrop: int
    token: UUID
    since: float
    is_lost: bool = False


class Found(NamedTuple):
    """A maildrop as its login has found it; see the rules of the package."""

    lease: Lease
    state: bytes
    epoch: bytes
    last: int


class _Ended:
    """Leases of sessions that have ended, to be released together.

    ``timer`` is until when they are gathered, for ``pause`` seconds; None: until ``stop`` goes on.
    """

    timer: IDelayedCall | None = None

    def __init__(self, pause: float) -> None:
        self.pause = pause
        self.leases: list[Lease] = []
        self.released: Deferred[None] = Deferred()


class Leases:
    """The leases of the sessions of a process, which last ``seconds`` and are renewed before.

    Those of sessions that have ended are released together, after GATHERING_TIME.  Until then, a
    login of the same user in this process releases them at once, and one in another process waits.

    ``reactor`` provides IReactorTime.  Nothing but the database's clock decides when a lease has
    expired.
    """

    def __init__(self, execute: Execute, seconds: int, reactor: Any) -> None:
        self._execute = execute
        self._seconds = seconds
        self._reactor = reactor
        self._held: set[Lease] = set()
        self._timer: IDelayedCall | None = None
        self._pending: set[Deferred[Any]] = set()
        # What is gathered now, by its pause, what waits for its time, and by the names of users
        # what has not been released.
        self._gathered: dict[float, _Ended] = {}
        self._waiting: set[_Ended] = set()
        self._ended: dict[bytes, _Ended] = {}
        self._is_stopped = False
        # How many are being taken, and what waits for them.
        self._taking = 0
        self._all_taken: Deferred[None] | None = None

    async def take(self, name: bytes, delay: int) -> Found:
        """Lock the maildrop of a user, which is created if there is none.

        ``delay`` is the minimum number of seconds since the last login.  With 0, the time of the
        last login is neither checked nor changed.

        :raises LoginTooSoon: the last login was less than ``delay`` seconds ago.
        :raises MaildropBusy: another session has it.
        :raises TryLater: the database does not answer, or the process stops.
        """
        self._taking += 1
        try:
            found = await self._take(name, delay)
            if self._is_stopped:
                # stop waits for this call, and releases the lease with the others.
                raise TryLater
            return found
        finally:
            self._taking -= 1
            if self._all_taken is not None and not self._taking:
                stopping, self._all_taken = self._all_taken, None
                stopping.callback(None)

    async def _take(self, name: bytes, delay: int) -> Found:
        found = await self._try(name, delay, TAKE_LEASE, CREATE_WITH_LEASE)
        for pause in BUSY_PAUSES:
            if found is not None or self._has(name):
                break
            await deferLater(self._reactor, pause)
            found = await self._try(name, delay, TAKE_LEASE)
        if found is None:
            raise MaildropBusy
        self._held.add(found.lease)
        if self._timer is None:
            self._timer = self._reactor.callLater(self._seconds / _RENEWALS, self._renew)
        return found

    def _has(self, name: bytes) -> bool:
        """Return whether a session of this process has the maildrop of a user."""
        return any(lease.name == name and not lease.is_lost for lease in self._held)

    async def _try(self, name: bytes, delay: int, *statements: str) -> Found | None:
        """Lock the maildrop of a user; return None if another session has it."""
        await self.released(name)
        if self._is_stopped:
            raise TryLater
        token = uuid4()
        parameters = (name, token, self._seconds, delay)
        since = self._reactor.seconds()
        try:
            for statement in statements:
                for maildrop, *found in await self._execute(statement, parameters):
                    return Found(Lease(name, maildrop, token, since), *found)
        except OutcomeUnknown:
            # It may be executed late.
            self._in_background(self._release_by_name(name, token))
            raise
        for (seconds,) in await self._execute(LOGIN_DELAY, (name, delay)) if delay else ():
            raise LoginTooSoon(seconds)
        return None

    def __len__(self) -> int:
        """Return how many are held."""
        return len(self._held)

    def is_certain(self, lease: Lease) -> bool:
        """Return whether no other session can have had the maildrop since a lease was taken."""
        return bool(self._reactor.seconds() - lease.since < self._seconds)

    def release(self, lease: Lease) -> None:
        """Release a lock soon; if the database does not answer, it expires."""
        # When the process stops, all are released at once.
        if lease not in self._held:
            return
        self._held.remove(lease)
        ended = self._gather(lease, GATHERING_TIME)
        if len(ended.leases) == MAX_TOGETHER:
            self._start(ended)

    def _gather(self, lease: Lease, pause: float) -> _Ended:
        """Add a lease to those that are released together after a pause; return them."""
        ended = self._gathered.get(pause)
        if ended is None or len(ended.leases) == MAX_TOGETHER:
            ended = self._gathered[pause] = _Ended(pause)
            if not self._is_stopped:
                ended.timer = self._reactor.callLater(pause, self._start, ended)
            self._waiting.add(ended)
        ended.leases.append(lease)
        self._ended[lease.name] = ended
        return ended

    async def released(self, name: bytes) -> None:
        """Release at once what an ended session of a user has left, and wait for it.

        It may be left again, if another transaction has locked its row.
        """
        ended = self._ended.get(name)
        if ended is not None:
            self._start(ended)
            await ended.released

    def _start(self, ended: _Ended) -> None:
        """Release leases now, unless that is under way."""
        if ended in self._waiting:
            self._waiting.remove(ended)
            if self._gathered.get(ended.pause) is ended:
                del self._gathered[ended.pause]
            if ended.timer is not None and ended.timer.active():
                ended.timer.cancel()
            self._in_background(self._release(ended))

    async def _release(self, ended: _Ended) -> None:
        left = ended.leases
        pause = RELEASE_PAUSE
        try:
            rows = await self._execute(RELEASE_LEASES, _columns(left))
            left = _without(left, rows)
            if left:
                # Their rows are locked, or they are lost.
                rows = await self._execute(HELD_LEASES, _columns(left))
                left = list(set(left).difference(_without(left, rows)))
        except TryLater:
            self._log_not_released()
            pause = UNANSWERED_PAUSE
            if self._is_stopped:
                # Each further attempt might take as long.
                left = []
        finally:
            for lease in ended.leases:
                if self._ended.get(lease.name) is ended:
                    del self._ended[lease.name]
            for lease in left:
                if self.is_certain(lease):
                    self._gather(lease, pause)
            ended.released.callback(None)

    async def stop(self) -> None:
        """Release all locks, also those of sessions that go on, and give no more."""
        self._is_stopped = True
        if self._taking:
            self._all_taken = Deferred()
            await self._all_taken
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for lease in list(self._held):
            self.release(lease)
        await self._release_now()
        pauses = iter(STOP_PAUSES)
        while self._waiting and (pause := next(pauses, None)) is not None:
            await deferLater(self._reactor, pause)
            await self._release_now()
        if self._waiting:
            self._log_locked()

    async def _release_now(self) -> None:
        """Release what is gathered, and wait until nothing more is done in the background."""
        for ended in list(self._waiting):
            self._start(ended)
        while self._pending:
            await gatherResults(list(self._pending))

    def _renew(self) -> None:
        self._timer = None
        if self._held:
            self._timer = self._reactor.callLater(self._seconds / _RENEWALS, self._renew)
            self._in_background(self._renew_all())

    async def _renew_all(self) -> None:
        now = self._reactor.seconds()
        # Most sessions are shorter, and need no renewal.
        due = [
            lease
            for lease in self._held
            if now - lease.since >= self._seconds / (2 * _RENEWALS) and not lease.is_lost
        ]
        if not due:
            return
        for at in range(0, len(due), MAX_TOGETHER):
            await self._renew_some(due[at : at + MAX_TOGETHER])

    async def _renew_some(self, leases: list[Lease]) -> None:
        now = self._reactor.seconds()
        try:
            rows = await self._execute(RENEW_LEASES, (*_columns(leases), self._seconds))
            left = _without(leases, rows)
            for lease in set(leases).difference(left):
                lease.since = now
            rows = await self._execute(HELD_LEASES, _columns(left)) if left else []
        except TryLater:
            _log.warn(
                "the locks of {count} sessions cannot be renewed now; once they are older than "
                "{seconds} s, another login may get the maildrop, and QUIT removes nothing then",
                count=len(leases),
                seconds=self._seconds,
            )
            return
        if rows and self._timer is not None:
            # Their rows were locked, and may be again at the next regular time.
            self._timer.reset(RENEWAL_PAUSE)
        for lease in _without(left, rows):
            if lease in self._held:
                lease.is_lost = True
                _log.warn(
                    "a session has lost the lock of its maildrop, because it was not renewed in "
                    "time, or the database has forgotten it; its QUIT removes nothing"
                )

    async def _release_by_name(self, name: bytes, token: UUID) -> None:
        try:
            await self._execute(RELEASE_BY_NAME, (name, token))
        except TryLater:
            self._log_not_released()

    def _log_not_released(self) -> None:
        _log.warn(
            "maildrops may stay locked for {seconds} s, because the database does not answer",
            seconds=self._seconds,
        )

    def _log_locked(self) -> None:
        _log.warn(
            "maildrops may stay locked for {seconds} s, because they were being changed when their "
            "sessions ended",
            seconds=self._seconds,
        )

    def _in_background(self, work: Coroutine[Any, Any, Any]) -> None:
        done = Deferred.fromCoroutine(work)
        done.addErrback(_log_failure)
        self._pending.add(done)
        done.addBoth(lambda _: self._pending.discard(done))


def _columns(leases: Iterable[Lease]) -> tuple[list[int], list[UUID]]:
    return [lease.maildrop for lease in leases], [lease.token for lease in leases]


def _without(leases: list[Lease], rows: list[tuple[Any, ...]]) -> list[Lease]:
    """Return the leases whose tokens are in none of the rows."""
    tokens = {token for (token,) in rows}
    return [lease for lease in leases if lease.token not in tokens]


def _log_failure(failure: Any) -> None:
    _log.failure("the locks of sessions cannot be renewed or released", failure)
