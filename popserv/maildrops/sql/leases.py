"""The exclusive-access locks of the sessions of a process: leases in the rows of maildrops."""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol
from uuid import UUID, uuid4

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from popserv.database.errors import OutcomeUnknown
from popserv.errors import LoginTooSoon, MaildropBusy, TryLater
from popserv.maildrops.sql.statements import (
    CREATE_WITH_LEASE,
    LOGIN_DELAY,
    RELEASE_BY_NAME,
    RELEASE_LEASE,
    RELEASE_LEASES,
    RENEW_LEASES,
    TAKE_LEASE,
)

_log = Logger()

_RENEWALS = 3
"""How often a lease is renewed before it would expire."""


class Execute(Protocol):
    """Executes a statement; see :meth:`popserv.database.Database.execute`."""

    def __call__(
        self, statement: str, parameters: Any = (), *, repeat: bool = True
    ) -> Awaitable[list[tuple[Any, ...]]]:
        """Execute it, and return its rows."""


@dataclass(slots=True, eq=False)
class Lease:
    """The lock of a maildrop, by the id of its row.

    ``since`` is the time of the clock before the statement that has taken or renewed it.
    """

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


class Leases:
    """The leases of the sessions of a process, which last ``seconds`` and are renewed before.

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
            if self._is_stopped:
                raise TryLater
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
        token = uuid4()
        parameters = (name, token, self._seconds, delay)
        since = self._reactor.seconds()
        try:
            rows = await self._execute(TAKE_LEASE, parameters)
            if not rows:
                rows = await self._execute(CREATE_WITH_LEASE, parameters)
        except OutcomeUnknown:
            # It may be executed late.
            self._in_background(self._end(RELEASE_BY_NAME, (name, token)))
            raise
        if not rows:
            for (seconds,) in await self._execute(LOGIN_DELAY, (name, delay)) if delay else ():
                raise LoginTooSoon(seconds)
            raise MaildropBusy
        maildrop, state, epoch, last, _ = rows[0]
        lease = Lease(maildrop, token, since)
        self._held.add(lease)
        if self._timer is None:
            self._timer = self._reactor.callLater(self._seconds / _RENEWALS, self._renew)
        return Found(lease, state, epoch, last)

    def __len__(self) -> int:
        """Return how many are held."""
        return len(self._held)

    def is_certain(self, lease: Lease) -> bool:
        """Return whether no other session can have had the maildrop since a lease was taken."""
        return bool(self._reactor.seconds() - lease.since < self._seconds)

    async def release(self, lease: Lease) -> None:
        """Release a lock; if the database does not answer, it expires."""
        # When the process stops, all are released at once.
        if lease in self._held:
            self._held.remove(lease)
            await self._end(RELEASE_LEASE, (lease.maildrop, lease.token))

    def release_later(self, lease: Lease) -> None:
        """Release a lock, and do not wait for it."""
        self._in_background(self.release(lease))

    async def stop(self) -> None:
        """Release all locks, also those of sessions that go on, and give no more."""
        self._is_stopped = True
        if self._taking:
            self._all_taken = Deferred()
            await self._all_taken
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        held, self._held = self._held, set()
        if held:
            await self._end(RELEASE_LEASES, _columns(held))
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
        try:
            rows = await self._execute(RENEW_LEASES, (*_columns(due), self._seconds))
        except TryLater:
            _log.warn(
                "the locks of {count} sessions cannot be renewed now; once they are older than "
                "{seconds} s, another login may get the maildrop, and QUIT removes nothing then",
                count=len(due),
                seconds=self._seconds,
            )
            return
        renewed = {token for token, _ in rows}
        for lease in due:
            if lease.token in renewed:
                lease.since = now
            elif lease in self._held:
                lease.is_lost = True
                _log.warn(
                    "a session has lost the lock of its maildrop, because it was not renewed in "
                    "time, or the database has forgotten it; its QUIT removes nothing"
                )

    async def _end(self, statement: str, parameters: Sequence[Any]) -> None:
        try:
            await self._execute(statement, parameters)
        except TryLater:
            _log.warn(
                "maildrops may stay locked for {seconds} s, because the database does not answer",
                seconds=self._seconds,
            )

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        done = Deferred.fromCoroutine(work)
        done.addErrback(_log_failure)
        self._pending.add(done)
        done.addBoth(lambda _: self._pending.discard(done))


def _columns(leases: Iterable[Lease]) -> tuple[list[int], list[UUID]]:
    return [lease.maildrop for lease in leases], [lease.token for lease in leases]


def _log_failure(failure: Any) -> None:
    _log.failure("the locks of sessions cannot be renewed or released", failure)
