"""The SQL store: maildrops in a PostgreSQL database that several processes share.

The module is long because the store provides many interfaces, each with a few lines.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, BinaryIO

from zope.interface import implementer

from popserv.core.findings import Finding
from popserv.core.user_settings import NO_SETTINGS, UserSettings
from popserv.database import Database
from popserv.database.facts import SharedFacts
from popserv.database.schema import SchemaError, check_schema, require_schema
from popserv.database.settings import shared_secret
from popserv.errors import MaildropUnavailable, TryLater
from popserv.interfaces import (
    ICaching,
    ICollectingStore,
    IConfigurableStore,
    IDelivery,
    IDeliveryStore,
    IDiagnosed,
    IJointDelivery,
    IMailbox,
    IMeasuredStore,
    IScanCounts,
    ISharedStore,
    IStoppingStore,
    IUserListing,
)
from popserv.maildrops.index_cache import IndexCache
from popserv.maildrops.sql.copying import SQLDelivery
from popserv.maildrops.sql.delivery import deliver, deliver_to_all
from popserv.maildrops.sql.diagnosis import diagnose
from popserv.maildrops.sql.hosts import Hosts
from popserv.maildrops.sql.leases import Found, Leases
from popserv.maildrops.sql.mailbox import ReadOnlySQLMailbox, SQLMailbox
from popserv.maildrops.sql.message_objects import MessageObjects
from popserv.maildrops.sql.objects import ObjectStore
from popserv.maildrops.sql.snapshots import Columns, Index, decode, extend, numbers_of
from popserv.maildrops.sql.statements import IS_MAILDROP, LIST, LIST_OLD, USERS
from popserv.maildrops.sql.survey import survey
from popserv.messages.sizes import MakeDowngrader
from popserv.runtime.bus import WorkerBus
from popserv.runtime.threads import BoundedThreadPool, RunInThread

_threads = BoundedThreadPool("popserv-sql", threads=1)

_MANY = 1000
"""The messages beyond which an index is made in a thread."""


@implementer(
    ICaching,
    ICollectingStore,
    IConfigurableStore,
    IDeliveryStore,
    IDiagnosed,
    IJointDelivery,
    IMeasuredStore,
    IScanCounts,
    ISharedStore,
    IStoppingStore,
    IUserListing,
)
class SQLMaildrops:
    """The maildrops in a database, which other processes may serve as well.

    Up to ``cache_messages`` messages are cached in memory between sessions, as for
    :class:`~popserv.maildrops.maildir.MaildirMaildrops`.

    ``downgrader`` is :class:`popserv.messages.downgrade.Downgrader`, for a server with UTF8.
    ``objects`` gets the octets of messages of more than ``inline`` octets of the configuration;
    those that no message has are removed from it about once a minute.
    ``since`` is the age in seconds above which messages are not shown.  ``run`` calls a function
    with arguments in a thread, and returns an awaitable of its result.
    """

    restrictions: Sequence[str] = ()
    """See IDeliveryStore."""

    login_delay = 0
    """See ISharedStore."""

    def __init__(
        self,
        database: Database,
        *,
        cache_messages: int = 500_000,
        downgrader: MakeDowngrader | None = None,
        since: float | None = None,
        objects: ObjectStore | None = None,
        reactor: Any = None,
        run: RunInThread = _threads.run,
    ) -> None:
        self._is_checked = False
        self._is_serving = False
        self._downgrades = downgrader is not None
        self._since = since
        self._run = run
        if reactor is None:
            from twisted.internet import reactor
        self._database = database
        self._execute = database.execute
        self._leases = Leases(self._execute, database.config.lease, reactor)
        # Of the supervisor and of popserv who, which neither serve nor remove objects.
        self.hosts = Hosts(self._execute, database.config.lease, self._check_schema)
        config = database.config
        self._objects = (
            None
            if objects is None
            else MessageObjects(self._execute, objects, config.inline, config.grace, reactor)
        )
        self._cache: IndexCache[Index] = IndexCache(cache_messages)
        self.cache_sizes = self._cache.sizes
        self.scan_counts = self._cache.scans.totals

    async def open_maildrop(self, user: bytes) -> IMailbox:
        """See IMaildropFactory."""
        return IMailbox(await self._open(user, NO_SETTINGS))

    async def open_configured(self, user: bytes, settings: UserSettings) -> IMailbox:
        """See IConfigurableStore."""
        settings.reject_unsupported("read_only", "since")
        return IMailbox(await self._open(user, settings))

    async def open_delivery(self, user: bytes) -> IDelivery:
        """See IDeliveryStore."""
        # Without warnings, which popserv copy takes for those of a user.
        await self._check(require_schema)
        # All messages, whatever is shown.
        mailbox = await self._make_mailbox(user, SQLMailbox, None)
        return IDelivery(SQLDelivery(mailbox, self._execute, self._run, self._objects))

    async def deliver_new(self, user: bytes, settings: UserSettings, message: BinaryIO) -> bytes:
        """See IFinalDelivery."""
        _reject_place(settings)
        await self._check()
        return await deliver(self._execute, user, message, self._run, self._objects)

    async def deliver_to_all(
        self, recipients: Sequence[tuple[bytes, UserSettings]], message: BinaryIO
    ) -> None:
        """See IJointDelivery."""
        for _, settings in recipients:
            _reject_place(settings)
        await self._check()
        names = list(dict.fromkeys(user for user, _ in recipients))
        await deliver_to_all(self._execute, names, message, self._run, self._objects)

    async def has_maildrop(self, user: bytes, settings: UserSettings) -> bool:
        """See IFinalDelivery: whether the user has logged in, or got mail, at any time."""
        return bool(await self._execute(IS_MAILDROP, (user,)))

    async def users(self) -> Sequence[bytes]:
        """See IUserListing."""
        try:
            # Without warnings, which popserv copy takes for those of a user.
            await self._check_schema(require_schema)
            rows = await self._execute(USERS)
        except MaildropUnavailable as error:
            raise OSError(str(error.__cause__)) from error
        except TryLater as error:
            raise OSError(f"the database does not answer: {error.__cause__}") from error
        return [name for (name,) in rows]

    async def collect(self, show: Callable[[int], object]) -> int:
        """See ICollectingStore."""
        await self._check()
        return await self._objects.collector.collect(show) if self._objects else 0

    async def find_unknown(self, show: Callable[[int], object]) -> int:
        """See ICollectingStore."""
        await self._check()
        return await self._objects.collector.find_unknown(show) if self._objects else 0

    def share(self, bus: WorkerBus, use_secret: Callable[[bytes], object]) -> None:
        """See ISharedStore."""
        SharedFacts(self._database, bus, use_secret).start()

    async def decoy_secret(self) -> bytes:
        """See ISharedStore."""
        await self._check_schema()
        return await shared_secret(self._database, "decoys")

    async def diagnose(self) -> Iterable[Finding]:
        """See IDiagnosed."""
        objects = self._objects.store if self._objects else None
        return [finding async for finding in diagnose(self._database, objects)]

    def measure(self, observe: Callable[[str, float], object]) -> None:
        """See IMeasuredStore."""
        self._database.observe = observe

    def counts(self) -> Mapping[str, float]:
        """See IMeasuredStore."""
        return {
            "waiting": self._database.waiting_count,
            "leases": len(self._leases),
            "collected": self._objects.collector.collected if self._objects else 0,
        }

    async def survey(self) -> Mapping[str, float]:
        """See IMeasuredStore."""
        return await survey(self._execute)

    async def stop(self) -> None:
        """See IStoppingStore."""
        try:
            if self._objects is not None:
                await self._objects.regular.stop()
            await self._leases.stop()
        finally:
            await self._database.close()

    async def _check(self, check: Callable[[Database], Awaitable[None]] = check_schema) -> None:
        """Check that the database can be used, and start to remove objects; both once.

        :raises MaildropUnavailable: it has not the schema of this version.
        """
        if not self._is_serving:
            await self._check_schema(check)
            self._is_serving = True
            if self._objects is not None:
                self._objects.regular.start()

    async def _check_schema(
        self, check: Callable[[Database], Awaitable[None]] = check_schema
    ) -> None:
        if not self._is_checked:
            try:
                await check(self._database)
            except SchemaError as error:
                raise MaildropUnavailable from error
            self._is_checked = True

    async def _open(self, user: bytes, settings: UserSettings) -> SQLMailbox:
        await self._check()
        kind = ReadOnlySQLMailbox if settings.read_only else SQLMailbox
        since = self._since if settings.since is None else settings.since
        return await self._make_mailbox(user, kind, since, self.login_delay)

    async def _make_mailbox(
        self, user: bytes, kind: type[SQLMailbox], since: float | None, login_delay: int = 0
    ) -> SQLMailbox:
        found = await self._leases.take(user, login_delay)
        try:
            index = await self._index(user, found)
            if since is not None:
                index = await self._select_recent(index, found, since)
        except BaseException:
            self._leases.release(found.lease)
            raise
        grace = self._database.config.grace
        objects = self._objects.store if self._objects else None
        return kind(self._execute, self._leases, found.lease, index, grace, objects)

    async def _index(self, user: bytes, found: Found) -> Index:
        """Return the messages of a maildrop, which are listed unless its state is known."""
        known = self._cache.get(user)
        if known is not None and known.state == found.state:
            index = known
        else:
            index = await self._list(known, found)
            if not self._leases.is_certain(found.lease):
                # Another session may have removed messages, and the index is of no state.
                return index
        self._cache.put(user, index)
        return index

    async def _list(self, known: Index | None, found: Found) -> Index:
        if known is not None and known.rows and known.epoch == found.epoch:
            columns = await self._columns(found, known.last)
            count = len(known.messages) + columns.size
            extended: Index | None = await self._decode(
                count, extend, known, found.state, columns, self._downgrades
            )
            if extended is not None:
                return extended
        columns = await self._columns(found, 0)
        whole: Index = await self._decode(
            columns.size, decode, found.state, found.epoch, columns, self._downgrades
        )
        return whole

    async def _columns(self, found: Found, first: int) -> Columns:
        [row] = await self._execute(LIST, (found.lease.maildrop, first, found.last))
        columns = Columns(*row)
        self._cache.scans.record(columns.size)
        return columns

    async def _decode(self, count: int, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args) if count <= _MANY else await self._run(function, *args)

    async def _select_recent(self, index: Index, found: Found, since: float) -> Index:
        """Return the index of the messages that were not delivered more than ``since`` s ago."""
        [(packed,)] = await self._execute(LIST_OLD, (found.lease.maildrop, round(since)))
        if packed is None:
            return index
        selected: Index = await self._run(_without, index, frozenset(numbers_of(packed)))
        return selected


def _reject_place(settings: UserSettings) -> None:
    """Refuse new mail for a user whose maildrop is elsewhere; other settings are for sessions."""
    if settings.maildrop:
        UserSettings(maildrop=settings.maildrop).reject_unsupported()


def _without(index: Index, positions: frozenset[int]) -> Index:
    return index.selected(
        [at for at in range(len(index.messages)) if index.position(at) not in positions]
    )
