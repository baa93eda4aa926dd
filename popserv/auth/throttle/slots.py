"""Login slots, which limit how many logins of one network run concurrently.

Each network has ``MAX_CONCURRENT`` shared slots.  A login needs a slot while its credentials are
checked.  If no slot is free, the login waits in the network's queue, which is first in, first out.
If its client disconnects meanwhile, the login leaves the queue and is not checked.

A failed login keeps its slot until its delayed reply is due, even if the client disconnects, so
that a client cannot guess passwords faster by reconnecting instead of waiting for the reply.  A
login that has no slot when it fails, because its client has disconnected instead of answering a
challenge, gets an extra slot.  There may be any number of these.  New logins wait while shared and
extra slots together are as many as the maximum.  A login that waits already does not: it gets a
shared slot when a slot of either kind is released, unless all shared ones are in use.

A user name that has logged in from the network within a day has a reserved slot, and so has each
name with the secret by which it has logged in.  They are used when no shared slot is free.  Such a
user need not wait while others guess passwords from the same address: they can occupy the slot of
the name, but that of the secret only if they know it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.cred.credentials import ICredentials
from twisted.internet.defer import Deferred

from popserv.errors import POPError, TryLater

MAX_CONCURRENT = 4
"""Shared slots of one network."""

MAX_QUEUED = 200
"""Logins of one network that may wait for a slot."""


class LoginSlots:
    """The slots and the queues of all networks.

    ``is_known_name`` is called with a network and a user name, and returns whether the name has a
    reserved slot in the network.  ``known_secret_hash`` is called with a network, a name and
    credentials, and returns what stands for name and secret if they have a reserved slot, or None.
    ``max_concurrent`` is the number of shared slots of a network.
    """

    def __init__(
        self,
        is_known_name: Callable[[str, bytes], bool],
        known_secret_hash: Callable[[str, bytes, ICredentials], int | None],
        max_concurrent: int = MAX_CONCURRENT,
    ) -> None:
        self._is_known_name = is_known_name
        self._known_secret_hash = known_secret_hash
        self._max_concurrent = max_concurrent
        self._shared_in_use: dict[str, int] = {}
        self._extra_in_use: dict[str, int] = {}
        self._reserved_in_use: set[tuple[str, bytes | int | None]] = set()
        self._queues: dict[str, dict[LoginAttempt, Deferred[None]]] = {}
        self._released: deque[tuple[dict[str, int], str]] = deque()
        self._is_dequeuing = False

    @property
    def waiting_count(self) -> int:
        """The number of logins that wait for a slot."""
        return sum(map(len, self._queues.values()))

    def acquire(self, attempt: LoginAttempt) -> Deferred[None] | None:
        """Assign a slot to a new login, or queue it; return the same as :meth:`reacquire`.

        :raises TryLater: no slot is free and the queue is full.
        """
        if self._try_acquire(attempt):
            return None
        queue = self._queues.get(attempt.network, {})
        if len(queue) >= MAX_QUEUED:
            oldest = next(iter(queue))
            if oldest.is_connected():
                raise TryLater("too many logins from your network, try again later")
            self.cancel(oldest)
        return self.reacquire(attempt)

    def reacquire(self, attempt: LoginAttempt) -> Deferred[None] | None:
        """Assign a slot again to a login that released one, or queue it, even if the queue is full.

        Return None if the login has a slot now, or a Deferred that fires when it has one.  The
        Deferred fails with POPError if the login is cancelled.
        """
        if self._try_acquire(attempt):
            return None
        waiting: Deferred[None] = Deferred()
        self._queues.setdefault(attempt.network, {})[attempt] = waiting
        return waiting

    def _try_acquire(self, attempt: LoginAttempt) -> bool:
        network = attempt.network
        in_use = self._shared_in_use.get(network, 0) + self._extra_in_use.get(network, 0)
        if in_use < self._max_concurrent:
            self._take_shared(attempt)
            return True
        secret = self._known_secret_hash(network, attempt.name, attempt.credentials)
        return (secret is not None and self._try_reserved(attempt, secret)) or (
            self._is_known_name(network, attempt.name) and self._try_reserved(attempt, attempt.name)
        )

    def _take_shared(self, attempt: LoginAttempt) -> None:
        network = attempt.slot = attempt.network
        self._shared_in_use[network] = self._shared_in_use.get(network, 0) + 1

    def _try_reserved(self, attempt: LoginAttempt, key: bytes | int) -> bool:
        reserved = (attempt.network, key)
        if reserved in self._reserved_in_use:
            return False
        self._reserved_in_use.add(reserved)
        attempt.slot = reserved
        return True

    def take_extra(self, attempt: LoginAttempt) -> None:
        """Assign an extra slot to a login that has none."""
        network = attempt.network
        attempt.slot = network, None
        self._extra_in_use[network] = self._extra_in_use.get(network, 0) + 1

    def give_up_secret(self, attempt: LoginAttempt) -> Deferred[None] | None:
        """Release the slot of a secret that is not known any more, and wait for another slot.

        Otherwise the time of the reply would tell that the secret was right once.  Return the same
        as :meth:`reacquire`.

        :raises TryLater: as :meth:`acquire`.
        """
        slot = attempt.slot
        if isinstance(slot, tuple) and isinstance(slot[1], int):
            self.release(attempt)
            return self.acquire(attempt)
        return None

    def release(self, attempt: LoginAttempt) -> None:
        """Release a login's slot, if it has one; the next login in the queue gets a shared one."""
        slot, attempt.slot = attempt.slot, None
        if isinstance(slot, str):
            self._end_use(self._shared_in_use, slot)
        elif slot == (attempt.network, None):
            self._end_use(self._extra_in_use, attempt.network)
        elif slot is not None:
            self._reserved_in_use.remove(slot)

    def cancel(self, attempt: LoginAttempt) -> None:
        """Remove a login from the queue, if it is queued; its Deferred fails."""
        if attempt in self._queues.get(attempt.network, {}):
            self._remove_from_queue(attempt).errback(POPError("client disconnected"))

    def _end_use(self, in_use: dict[str, int], network: str) -> None:
        # The login that gets a slot may release it before callback() returns.  A loop instead of
        # recursion keeps the stack flat.
        self._released.append((in_use, network))
        if self._is_dequeuing:
            return
        self._is_dequeuing = True
        try:
            while self._released:
                self._pass_on_slot(*self._released.popleft())
        finally:
            self._is_dequeuing = False

    def _pass_on_slot(self, in_use: dict[str, int], network: str) -> None:
        """Release a slot; the next login in the queue whose client is connected gets a shared one.

        After an extra slot, all shared ones may still be in use.
        """
        in_use[network] -= 1
        if not in_use[network]:
            del in_use[network]
        while network in self._queues and self._shared_in_use.get(network) != self._max_concurrent:
            attempt = next(iter(self._queues[network]))
            if attempt.is_connected():
                self._take_shared(attempt)
                self._remove_from_queue(attempt).callback(None)
                return
            self.cancel(attempt)

    def _remove_from_queue(self, attempt: LoginAttempt) -> Deferred[None]:
        queue = self._queues[attempt.network]
        waiting = queue.pop(attempt)
        if not queue:
            del self._queues[attempt.network]
        return waiting


class LoginAttempt:
    """A login with a user name and credentials, from a network.

    ``is_connected`` returns whether the client is still connected.  ``slot`` is the slot that the
    login has: the network for a shared slot, the network with None for an extra slot, for a
    reserved slot the network with the name or with what stands for name and secret, or None.
    """

    __slots__ = ("credentials", "is_connected", "name", "network", "slot")

    def __init__(
        self,
        network: str,
        name: bytes,
        credentials: ICredentials,
        is_connected: Callable[[], bool],
    ) -> None:
        self.network = network
        self.name = name
        self.credentials = credentials
        self.is_connected = is_connected
        self.slot: str | tuple[str, bytes | int | None] | None = None
