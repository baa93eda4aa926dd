"""The exclusive-access locks of the sessions of a process: leases in the rows of maildrops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Coroutine, Iterable, Iterator, Sequence
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
    RENEW_LEASES,
    TAKE_LEASE,
)

_log = Logger()

_RENEWALS = 3
"""How often a lease is renewed before it would expire."""

GATHERING = 0.01
"""The seconds in which sessions end that are released by one statement."""

PAUSE = 0.1
"""The seconds after which a login tries again to get a maildrop that is locked elsewhere.

The session there may have ended less than GATHERING seconds ago.
"""

RELEASES_AT_ONCE = 2
"""How many statements release leases one by one, which may wait, at the same time."""


class Execute(Protocol):
    """Executes a statement; see :meth:`popserv.database.Database.execute`."""

    def __call__(
        self, statement: str, parameters: Any = (), *, repeat: bool = True
    ) -> Awaitable[list[tuple[Any, ...]]]:
        """Execute it, and return its rows."""


@dataclass(slots=True, eq=False)
class Lease:
    """The lock of a maildrop, by the id of its row; ``name`` is that of the user.

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


class Leases:
    """The leases of the sessions of a process, which last ``seconds`` and are renewed before.

    ``reactor`` provides IReactorTime.  Nothing but the database's clock decides when a lease has
    expired.

    The leases of sessions that have ended are released together, once in GATHERING seconds.  A
    login of the same user in this process replaces the lease by its own statement; one in another
    process tries again after PAUSE seconds.
    """

    def __init__(self, execute: Execute, seconds: int, reactor: Any) -> None:
        self._execute = execute
        self._seconds = seconds
        self._reactor = reactor
        self._held: set[Lease] = set()
        self._names: Counter[bytes] = Counter()
        self._timer: IDelayedCall | None = None
        # Those of sessions that have ended, by name: to be released, and being released.
        self._ended: dict[bytes, Lease] = {}
        self._leaving: dict[bytes, Lease] = {}
        self._gathering: IDelayedCall | None = None
        self._pending: set[Deferred[Any]] = set()
        self._is_stopped = False
        # How many are being taken, and what waits for them.
        self._taking = 0
        self._all_taken: Deferred[None] | None = None

    async def take(self, name: bytes, delay: int = 0) -> Found:
        """Lock the maildrop of a user, which is created if there is none.

        With a ``delay`` in seconds, it is a login, before which there was none for so long.

        :raises LoginTooSoon: there was one.
        :raises MaildropBusy: another session has it.
        :raises TryLater: the database does not answer, or the process stops.
        """
        self._taking += 1
        try:
            if self._is_stopped:
                raise TryLater
            ended = self._ended.pop(name, None)
            found = None
            try:
                found = await self._take(name, delay, ended or self._leaving.get(name))
            finally:
                if ended is not None and found is None:
                    self._release_soon(ended)
            if self._is_stopped:
                self.release(found.lease)
                raise TryLater
            return found
        finally:
            self._taking -= 1
            if self._all_taken is not None and not self._taking:
                stopping, self._all_taken = self._all_taken, None
                stopping.callback(None)

    async def _take(self, name: bytes, delay: int, ended: Lease | None) -> Found:
        token = uuid4()
        parameters = (name, token, self._seconds, delay)
        before = token if ended is None else ended.token
        since = self._reactor.seconds()
        try:
            rows = await self._execute(TAKE_LEASE, (*parameters, before))
            if not rows:
                rows = await self._execute(CREATE_WITH_LEASE, parameters)
            if not rows:
                for (seconds,) in await self._execute(LOGIN_DELAY, (name, delay)) if delay else ():
                    raise LoginTooSoon(seconds)
                if not self._names[name]:
                    await deferLater(self._reactor, PAUSE)
                    since = self._reactor.seconds()
                    rows = await self._execute(TAKE_LEASE, (*parameters, before))
        except OutcomeUnknown:
            # It may be executed late.
            self._in_background(self._end(RELEASE_BY_NAME, (name, token)))
            raise
        if not rows:
            raise MaildropBusy
        maildrop, state, epoch, last, _ = rows[0]
        lease = Lease(name, maildrop, token, since)
        self._held.add(lease)
        self._names[name] += 1
        if self._timer is None:
            self._timer = self._reactor.callLater(self._seconds / _RENEWALS, self._renew)
        return Found(lease, state, epoch, last)

    def __len__(self) -> int:
        """Return how many are held."""
        return len(self._held)

    def is_certain(self, lease: Lease) -> bool:
        """Return whether no other session can have had the maildrop since a lease was taken."""
        return bool(self._reactor.seconds() - lease.since < self._seconds)

    def release(self, lease: Lease) -> None:
        """Release a lock soon, as told above; if the database does not answer, it expires."""
        # When the process stops, all are released at once.
        if lease in self._held:
            self._held.remove(lease)
            self._names[lease.name] -= 1
            if not self._names[lease.name]:
                del self._names[lease.name]
            if not lease.is_lost:
                self._release_soon(lease)

    def _release_soon(self, lease: Lease) -> None:
        if lease.name in self._ended:
            # Two sessions of the user have ended, so that one had lost its lease: both tokens are
            # released, since it is unknown which of them is valid.
            self._release_ended()
        self._ended[lease.name] = lease
        if self._gathering is None:
            self._gathering = self._reactor.callLater(GATHERING, self._gathered)

    def _gathered(self) -> None:
        self._gathering = None
        self._release_ended()

    def _release_ended(self) -> None:
        ended, self._ended = list(self._ended.values()), {}
        if ended:
            self._leaving.update((lease.name, lease) for lease in ended)
            self._in_background(self._release_all(ended))

    async def _release_all(self, leases: Sequence[Lease]) -> None:
        try:
            rows = await self._end(RELEASE_LEASES, _columns(leases))
            if rows is not None:
                released = {maildrop for maildrop, _ in rows}
                left = iter([lease for lease in leases if lease.maildrop not in released])
                works = [self._release_each(left) for _ in range(RELEASES_AT_ONCE)]
                await gatherResults(map(Deferred.fromCoroutine, works), consumeErrors=True)
        finally:
            for lease in leases:
                if self._leaving.get(lease.name) is lease:
                    del self._leaving[lease.name]

    async def _release_each(self, leases: Iterator[Lease]) -> None:
        for lease in leases:
            await self._end(RELEASE_LEASE, (lease.maildrop, lease.token))

    async def stop(self) -> None:
        """Release all locks, also those of sessions that go on, and give no more."""
        self._is_stopped = True
        if self._taking:
            self._all_taken = Deferred()
            await self._all_taken
        for timer in filter(None, (self._timer, self._gathering)):
            timer.cancel()
        self._timer = self._gathering = None
        locked = [lease for lease in self._held if not lease.is_lost]
        locked += self._ended.values()
        self._held.clear()
        self._names.clear()
        self._ended.clear()
        if locked:
            await self._release_all(locked)
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

    async def _end(self, statement: str, parameters: Sequence[Any]) -> list[Any] | None:
        """Execute a statement that ends leases; return None if the database does not answer."""
        try:
            return await self._execute(statement, parameters)
        except TryLater:
            _log.warn(
                "maildrops may stay locked for {seconds} s, because the database does not answer",
                seconds=self._seconds,
            )
            return None

    def _in_background(self, work: Coroutine[Any, Any, object]) -> None:
        done = Deferred.fromCoroutine(work)
        done.addErrback(_log_failure)
        self._pending.add(done)
        done.addBoth(lambda _: self._pending.discard(done))


def _columns(leases: Iterable[Lease]) -> tuple[list[int], list[UUID]]:
    return [lease.maildrop for lease in leases], [lease.token for lease in leases]


def _log_failure(failure: Any) -> None:
    _log.failure("the locks of sessions cannot be renewed or released", failure)
