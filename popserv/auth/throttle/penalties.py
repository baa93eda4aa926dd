"""Logins that failed lately, by the client's network, and how much longer the next one waits.

The first failure of a network is answered after the usual time, the next ones after two,
four and seven and a half times as long; each is forgotten ten minutes after it was last
seen.  What failed lately and fails again, the same name with the same password, is a
program with an old password: it learns nothing, waits the usual time, and counts once.
A login that succeeds changes nothing in that, or who owns an account could guess others;
it is the user's name that is known in the network from then on, for a day.
"""

from __future__ import annotations

import os
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from typing import Any

from twisted.cred.credentials import ICredentials
from twisted.logger import Logger

from popserv.runtime.bus import WorkerBus

FACTORS = (1.0, 2.0, 4.0, 7.5)
"""How much longer a failed login waits, by how many others its network had before; the last
is the bound."""

FORGOTTEN = 600.0
"""Seconds after which a failed login counts no more."""

KNOWN = 86_400.0
"""Seconds for which a name is known in a network where it has logged in."""

KEPT = 10
"""Failures that are remembered of a network: the last."""

TOPIC = "penalties"


class Penalties:
    """What is remembered of the ``most`` networks that failed last, and of as many names.

    A failure is a digest of what failed, under a key that the process made up.  Workers
    that share an exchange agree on the least of their keys, and each counts all failures.
    ``now`` is a clock that they share, too: CLOCK_MONOTONIC is one for all processes of a
    machine.
    """

    log = Logger()

    def __init__(
        self,
        bus: WorkerBus | None = None,
        *,
        most: int = 10_000,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bus = bus or WorkerBus()
        self._most = most
        self._now = now
        self._key = os.urandom(32)
        # The least recent first; of each network when a digest was seen last.
        self._failures: OrderedDict[str, dict[int, float]] = OrderedDict()
        self._slowest: set[str] = set()
        self._names: OrderedDict[tuple[str, bytes], float] = OrderedDict()
        self._bus.subscribe(TOPIC, self)
        self._tell_key()

    def factor(self, network: str) -> float:
        """Tell how much longer the network's next failure waits."""
        return FACTORS[min(len(self._recent(network)), len(FACTORS) - 1)]

    def failed(self, network: str, what: Sequence[bytes] | None) -> float:
        """Note a failed login; return how much longer than usual its answer waits.

        ``what`` is all that the client gave, or None if it could not be the same twice.
        """
        digest = secrets.randbits(64) if what is None else self._digest(what)
        before = self._recent(network)
        factor = FACTORS[0] if digest in before else self.factor(network)
        if not before:
            self._slowest.discard(network)
        at = self._now()
        self._note(network, digest, at)
        self._bus.publish(TOPIC, ["failed", network, digest, at])
        if self.factor(network) == FACTORS[-1] and network not in self._slowest:
            self._slowest.add(network)
            self.log.warn(
                "{network}: repeated login failures, replies are delayed", network=network
            )
        return factor

    def succeeded(self, network: str, name: bytes) -> None:
        """Note that a name has logged in from a network."""
        at = self._now()
        self._know(network, name, at)
        # The others need to know it only where logins wait.
        if network in self._failures:
            self._bus.publish(TOPIC, ["known", network, name.decode("latin-1"), at])

    def knows(self, network: str, name: bytes) -> bool:
        """Tell whether a name has logged in from a network not too long ago."""
        return self._names.get((network, name), -KNOWN) > self._now() - KNOWN

    # A Listener of the exchange

    def receive(self, fact: Sequence[Any]) -> None:
        """Take a fact that another worker told."""
        kind, *rest = fact
        if kind == "failed":
            self._note(*rest)
        elif kind == "known":
            network, name, at = rest
            self._know(network, name.encode("latin-1"), at)
        else:
            self._agree_on(bytes.fromhex(rest[0]))

    def replay(self) -> Iterable[Sequence[Any]]:
        """Yield what a worker that has just begun should know."""
        yield ["key", self._key.hex()]
        for network in self._failures:
            for digest, at in self._recent(network).items():
                yield ["failed", network, digest, at]
        for (network, name), at in self._names.items():
            if network in self._failures:
                yield ["known", network, name.decode("latin-1"), at]

    def _tell_key(self) -> None:
        self._bus.publish(TOPIC, ["key", self._key.hex()])

    def _agree_on(self, key: bytes) -> None:
        if self._key < key:
            self._tell_key()
        # What failed under another key counts on, but is not known again.
        self._key = min(self._key, key)

    # What is remembered

    def _recent(self, network: str) -> dict[int, float]:
        """Return the network's failures that still count."""
        failures = self._failures.get(network, {})
        end = self._now() - FORGOTTEN
        return {digest: at for digest, at in failures.items() if at > end}

    def _note(self, network: str, digest: int, at: float) -> None:
        """Remember the latest time of a failure, in whatever order they are heard of."""
        failures = self._failures.setdefault(network, {})
        failures[digest] = max(at, failures.get(digest, at))
        if len(failures) > KEPT:
            del failures[min(failures, key=lambda each: (failures[each], each))]
        self._failures.move_to_end(network)
        end = self._now() - FORGOTTEN
        while self._failures:
            oldest, its = next(iter(self._failures.items()))
            if len(self._failures) <= self._most and max(its.values()) > end:
                break
            del self._failures[oldest]
            self._slowest.discard(oldest)

    def _know(self, network: str, name: bytes, at: float) -> None:
        key = network, name
        self._names[key] = max(at, self._names.get(key, at))
        self._names.move_to_end(key)
        if len(self._names) > self._most:
            self._names.popitem(last=False)

    def _digest(self, what: Sequence[bytes]) -> int:
        # The lengths part them, whatever is in them.
        text = b"".join(b"%d:%b" % (len(each), each) for each in what)
        return int.from_bytes(blake2b(text, key=self._key, digest_size=8).digest(), "big")


def attempted_secrets(
    name: bytes | None, credentials: ICredentials | None
) -> Sequence[bytes] | None:
    """Return all that a client gave to log in with, or None if it is never the same twice.

    ``credentials`` is None where a mechanism refused the name before it had any.
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
