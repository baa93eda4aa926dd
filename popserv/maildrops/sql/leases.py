"""The exclusive-access locks of the sessions of a process: leases in the rows of maildrops."""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine, Iterable, Sequence
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
    LOGIN_DELAY,
    RELEASE_BY_NAME,
    RELEASE_LEASE,
    RELEASE_LEASES,
    RENEW_LEASE,
    RENEW_LEASES,
    TAKE_LEASE,
)

_log = Logger()

_RENEWALS = 3
"""How often a lease is renewed before it would expire."""

GATHERING_TIME = 0.02
"""The seconds in which sessions end whose leases are released by one statement."""

MAX_TOGETHER = 1000
"""The leases that one statement releases."""

BUSY_PAUSES = (0.1, 0.3)
"""The seconds after which a login tries again: the session may have ended in another process."""


class Execute(Protocol):
    """Executes a statement; see :meth:`popserv.database.Database.execute`."""

    def __call__(
        self, statement: str, parameters: Any = (), *, repeat: bool = True
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
    """Leases of sessions that have ended, to be released together."""

    timer: IDelayedCall | None = None

    def __init__(self, *leases: Lease) -> None:
        self.leases = list(leases)
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
        # What is gathered now, and by the names of users also what is being released.
        self._gathered: _Ended | None = None
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
                for maildrop, state, epoch, last, _ in await self._execute(statement, parameters):
                    return Found(Lease(name, maildrop, token, since), state, epoch, last)
        except OutcomeUnknown:
            # It may be executed late.
            self._in_background(self._end(RELEASE_BY_NAME, (name, token)))
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
        if self._gathered is None:
            self._gathered = _Ended()
            self._gathered.timer = self._reactor.callLater(GATHERING_TIME, self._release_gathered)
        ended = self._ended[lease.name] = self._gathered
        ended.leases.append(lease)
        if len(ended.leases) == MAX_TOGETHER:
            self._release_gathered()

    async def released(self, name: bytes) -> None:
        """Release at once what ended sessions of a user have left, and wait for it."""
        while name in self._ended:
            ended = self._ended[name]
            if ended is self._gathered:
                self._release_gathered()
            await ended.released

    def _release_gathered(self) -> None:
        ended, self._gathered = self._gathered, None
        if ended is not None:
            if ended.timer is not None and ended.timer.active():
                ended.timer.cancel()
            self._in_background(self._release(ended))

    async def _release(self, ended: _Ended) -> None:
        left: list[Lease] = []
        try:
            if len(ended.leases) == 1:
                [lease] = ended.leases
                await self._end(RELEASE_LEASE, (lease.maildrop, lease.token))
            else:
                rows = await self._end(RELEASE_LEASES, _columns(ended.leases))
                if rows is not None:
                    done = {token for token, _ in rows}
                    left += [lease for lease in ended.leases if lease.token not in done]
        finally:
            for lease in ended.leases:
                if self._ended.get(lease.name) is ended:
                    del self._ended[lease.name]
            for lease in left:
                self._release_alone(lease)
            ended.released.callback(None)

    def _release_alone(self, lease: Lease) -> None:
        """Release a lock whose row another transaction has locked."""
        ended = self._ended[lease.name] = _Ended(lease)
        self._in_background(self._release(ended))

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
        self._release_gathered()
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
        try:
            rows = await self._execute(RENEW_LEASES, (*_columns(due), self._seconds))
        except TryLater:
            self._log_not_renewed(len(due))
            return
        renewed = {token for token, _ in rows}
        left = []
        for lease in due:
            if lease.token in renewed:
                lease.since = now
            elif lease in self._held:
                left.append(Deferred.fromCoroutine(self._renew_alone(lease)))
        await gatherResults(left, consumeErrors=True)

    async def _renew_alone(self, lease: Lease) -> None:
        """Renew a lock that is lost, or whose row another transaction has locked."""
        now = self._reactor.seconds()
        parameters = (lease.maildrop, lease.token, self._seconds)
        try:
            rows = await self._execute(RENEW_LEASE, parameters)
        except TryLater:
            self._log_not_renewed(1)
            return
        if rows:
            lease.since = now
        elif lease in self._held:
            lease.is_lost = True
            _log.warn(
                "a session has lost the lock of its maildrop, because it was not renewed in "
                "time, or the database has forgotten it; its QUIT removes nothing"
            )

    def _log_not_renewed(self, count: int) -> None:
        _log.warn(
            "the locks of {count} sessions cannot be renewed now; once they are older than "
            "{seconds} s, another login may get the maildrop, and QUIT removes nothing then",
            count=count,
            seconds=self._seconds,
        )

    async def _end(self, statement: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]] | None:
        """Execute a statement that releases locks; return its rows, or None without an answer."""
        try:
            return await self._execute(statement, parameters)
        except TryLater:
            _log.warn(
                "maildrops may stay locked for {seconds} s, because the database does not answer",
                seconds=self._seconds,
            )
            return None

    def _in_background(self, work: Coroutine[Any, Any, Any]) -> None:
        done = Deferred.fromCoroutine(work)
        done.addErrback(_log_failure)
        self._pending.add(done)
        done.addBoth(lambda _: self._pending.discard(done))


def _columns(leases: Iterable[Lease]) -> tuple[list[int], list[UUID]]:
    return [lease.maildrop for lease in leases], [lease.token for lease in leases]


def _log_failure(failure: Any) -> None:
    _log.failure("the locks of sessions cannot be renewed or released", failure)
