"""Penalties for failed logins: how long the reply to a failed login is delayed.

Failures are counted by the client's network, which is one IPv4 address or one IPv6 /64.  The reply
to a network's first failure has the base delay.  The replies to the following failures have 2, 4
and at most 7.5 times the base delay: 2, 4, 8 and 15 seconds if the base delay is 2 seconds.  A
failure expires ten minutes after it last occurred.

A failure that is repeated with the same name and password is counted once and always has the base
delay.  The client is usually a mail program with an outdated password, and an attacker learns
nothing from repeating a guess.  A repetition of a response to a challenge is not recognized.

A successful login does not reduce the delays.  Otherwise an attacker with an account could reset
them between two guesses.  Instead the user name is known in the network for a day, and so is the
name with its secret; each has a reserved slot (:mod:`popserv.auth.throttle.slots`).  The network is
known for as long, and its connections do not wait to be started
(:mod:`popserv.auth.throttle.starts`).
"""

from __future__ import annotations

import os
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from typing import Any, TypeVar

from twisted.cred.credentials import ICredentials
from twisted.logger import Logger

from popserv.runtime.bus import WorkerBus

DELAY_FACTORS = (1.0, 2.0, 4.0, 7.5)
"""The factors of the base delay, by the number of other recent failures of the network; the last
one is the maximum."""

FAILURE_LIFETIME = 600.0
"""Seconds after which a failure is not counted any more."""

KNOWN_NAME_LIFETIME = 86_400.0
"""Seconds for which a name is known in a network, and the network itself, after the last login."""

MAX_FAILURES = 10
"""The maximum number of failures that are stored for a network; the oldest is evicted."""

_TOPIC = "penalties"

K = TypeVar("K")


class Penalties:
    """Recent failures, known names, secrets and networks, at most ``max_entries`` of each.

    If there are more, the least recent is evicted.

    A failure is stored as a digest of its credentials, made with a random key.  Workers that share
    a bus adopt the smallest of their keys, so that a repeated failure has the same digest in all
    of them, and each worker counts the failures of all; with hosts that share a key, it is that
    (:meth:`use_key`).  Of a right secret a hash is stored, which never leaves the process.

    ``now`` is a clock in seconds that must be the same for all workers; CLOCK_MONOTONIC is the same
    for all processes of a machine.
    """

    log = Logger()

    def __init__(
        self,
        bus: WorkerBus | None = None,
        *,
        max_entries: int = 10_000,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bus = bus or WorkerBus()
        self._max_entries = max_entries
        self._now = now
        self._key = os.urandom(32)
        self._is_key_shared = False
        # For each network the digests and when each occurred last; the least recent network first.
        self._failures: OrderedDict[str, dict[int, float]] = OrderedDict()
        self._at_max_delay: set[str] = set()
        # When each name logged in last from a network; the least recent first.
        self._known_names: OrderedDict[tuple[str, bytes], float] = OrderedDict()
        # When each name logged in last with a secret, by the hash of both.
        self._known_secrets: OrderedDict[tuple[str, int], float] = OrderedDict()
        # When somebody logged in last from each network; the least recent first.
        self._known_networks: OrderedDict[str, float] = OrderedDict()
        self._bus.subscribe(_TOPIC, self)
        self._publish_key()

    def delay_factor(self, network: str) -> float:
        """Return the factor of the base delay for the network's next failure."""
        return DELAY_FACTORS[min(len(self._recent_failures(network)), len(DELAY_FACTORS) - 1)]

    def record_failure(self, network: str, attempted: Sequence[bytes] | None) -> float:
        """Record a failed login; return the factor of the base delay for its reply.

        ``attempted`` is the name and the secrets as :func:`attempted_secrets` returns them.
        """
        digest = secrets.randbits(64) if attempted is None else _digest(self._key, attempted)
        recent = self._recent_failures(network)
        factor = DELAY_FACTORS[0] if digest in recent else self.delay_factor(network)
        if not recent:
            self._at_max_delay.discard(network)
        at = self._now()
        self._store_failure(network, digest, at)
        self._bus.publish(_TOPIC, ["failure", network, digest, at])
        is_at_max_delay = self.delay_factor(network) == DELAY_FACTORS[-1]
        if is_at_max_delay and network not in self._at_max_delay:
            self._at_max_delay.add(network)
            self.log.warn(
                "{network}: repeated login failures, replies are delayed", network=network
            )
        return factor

    def record_success(
        self, network: str, name: bytes, attempted: Sequence[bytes] | None = None
    ) -> None:
        """Record that a name has logged in from a network; ``attempted`` as for a failure."""
        at = self._now()
        if attempted is not None:
            self._store_login(self._known_secrets, self._secret_key(network, attempted), at)
        self._store_known_name(network, name, at)
        # Without failures of the network, no login waits for a slot at another worker; its
        # connections there may still wait to be started.
        if network in self._failures:
            self._bus.publish(_TOPIC, _known_name_update(network, name, at))

    def is_known_name(self, network: str, name: bytes) -> bool:
        """Return whether a name has logged in from a network within a day."""
        return self._is_recent(self._known_names.get((network, name)))

    def known_secret_hash(self, network: str, name: bytes, credentials: ICredentials) -> int | None:
        """Return a hash of name and secret, if they have logged in from a network within a day.

        Return None if they have not, or if the credentials are a response to a challenge.
        """
        attempted = attempted_secrets(name, credentials)
        if attempted is None:
            return None
        key = self._secret_key(network, attempted)
        return key[1] if self._is_recent(self._known_secrets.get(key)) else None

    def forget_secret(self, network: str, attempted: Sequence[bytes] | None) -> None:
        """Forget a secret that has been refused, if it is known."""
        if attempted is not None:
            self._known_secrets.pop(self._secret_key(network, attempted), None)

    def is_known_network(self, network: str) -> bool:
        """Return whether somebody has logged in from a network within a day."""
        return self._is_recent(self._known_networks.get(network))

    def _is_recent(self, login: float | None) -> bool:
        return login is not None and self._now() - login < KNOWN_NAME_LIFETIME

    @property
    def network_count(self) -> int:
        """The number of networks with failures that are counted."""
        self._evict_expired()
        return len(self._failures)

    def forget(self, network: str) -> int:
        """Forget the failures of a network in this process; return how many were counted."""
        count = len(self._recent_failures(network))
        self._failures.pop(network, None)
        self._at_max_delay.discard(network)
        return count

    # The subscriber of the worker bus

    def use_key(self, key: bytes) -> None:
        """Use the key of all hosts for digests, from now on."""
        # Failures whose digests have the old key are still counted, but not recognized if repeated.
        self._key = key
        self._is_key_shared = True

    def receive(self, update: Sequence[Any], offset: float = 0.0) -> None:
        """Process an update from another worker; updates may be repeated and in any order."""
        kind, *values = update
        if kind == "failure":
            network, digest, at = values
            self._store_failure(network, digest, at + offset)
        elif kind == "known-name":
            network, name, at = values
            self._store_known_name(network, name.encode("latin-1"), at + offset)
        elif not self._is_key_shared:
            self._adopt_smaller_key(bytes.fromhex(values[0]))

    def replay(self) -> Iterable[Sequence[Any]]:
        """Yield the updates that a new worker needs."""
        yield ["key", self._key.hex()]
        for network in self._failures:
            for digest, at in self._recent_failures(network).items():
                yield ["failure", network, digest, at]
        for (network, name), at in self._known_names.items():
            if network in self._failures:
                yield _known_name_update(network, name, at)

    def _publish_key(self) -> None:
        self._bus.publish(_TOPIC, ["key", self._key.hex()])

    def _adopt_smaller_key(self, key: bytes) -> None:
        if self._key < key:
            self._publish_key()
        # As in use_key.
        self._key = min(self._key, key)

    # Storage

    def _recent_failures(self, network: str) -> dict[int, float]:
        """Return the network's failures that have not expired."""
        failures = self._failures.get(network, {})
        expired = self._now() - FAILURE_LIFETIME
        return {digest: at for digest, at in failures.items() if at > expired}

    def _store_failure(self, network: str, digest: int, at: float) -> None:
        """Store the latest time of a failure; evict entries that are expired or exceed a limit."""
        failures = self._failures.setdefault(network, {})
        failures[digest] = max(at, failures.get(digest, at))
        if len(failures) > MAX_FAILURES:
            del failures[min(failures, key=lambda each: (failures[each], each))]
        self._failures.move_to_end(network)
        self._evict_expired()

    def _evict_expired(self) -> None:
        """Evict networks whose failures have expired, and the oldest of too many."""
        expired = self._now() - FAILURE_LIFETIME
        while self._failures:
            oldest, oldest_failures = next(iter(self._failures.items()))
            if len(self._failures) <= self._max_entries and max(oldest_failures.values()) > expired:
                break
            del self._failures[oldest]
            self._at_max_delay.discard(oldest)

    def _store_known_name(self, network: str, name: bytes, at: float) -> None:
        self._store_login(self._known_names, (network, name), at)
        self._store_login(self._known_networks, network, at)

    def _store_login(self, logins: OrderedDict[K, float], key: K, at: float) -> None:
        logins[key] = max(at, logins.get(key, at))
        logins.move_to_end(key)
        if len(logins) > self._max_entries:
            logins.popitem(last=False)

    def _secret_key(self, network: str, attempted: Sequence[bytes]) -> tuple[str, int]:
        # Python's hash has a random key in each process, and takes no time at each login.
        return network, hash(tuple(attempted))


def _digest(key: bytes, attempted: Sequence[bytes]) -> int:
    # Each part is preceded by its length, so that different parts cannot have the same text.
    text = b"".join(b"%d:%b" % (len(part), part) for part in attempted)
    return int.from_bytes(blake2b(text, key=key, digest_size=8).digest(), "big")


def _known_name_update(network: str, name: bytes, at: float) -> Sequence[Any]:
    return ["known-name", network, name.decode("latin-1"), at]


def attempted_secrets(
    name: bytes | None, credentials: ICredentials | None
) -> Sequence[bytes] | None:
    """Return the name and the secrets of a failed login, by which a repetition is recognized.

    Return None if a repetition cannot be recognized, because the credentials are a response to a
    challenge.  ``credentials`` is None if the SASL mechanism rejected the name before it had any.
    """
    given: Any = credentials
    if credentials is None:
        return [name or b""]
    for attribute in ("password", "token", "remote_user"):
        secret = getattr(given, attribute, None)
        if isinstance(secret, bytes):
            return [name or b"", secret]
    names = getattr(given, "names", None)
    return None if names is None else [name or b"", *names]
