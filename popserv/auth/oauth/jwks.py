"""The provider's public keys: a JWK Set, in a file or at a URL (RFC 7517)."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from popserv.auth.oauth.provider import MAX_ANSWER, Provider, ProviderError, parse_object
from popserv.runtime.threads import BoundedThreadPool

_reading = BoundedThreadPool("popserv-keys", threads=1, backlog=200)


class _Kind(NamedTuple):
    """What a key for an algorithm is, in a JWK's words."""

    kty: str
    curves: tuple[str, ...] = ()


ALGORITHMS: Mapping[str, _Kind] = {
    "RS256": _Kind("RSA"),
    "RS384": _Kind("RSA"),
    "RS512": _Kind("RSA"),
    "PS256": _Kind("RSA"),
    "PS384": _Kind("RSA"),
    "PS512": _Kind("RSA"),
    "ES256": _Kind("EC", ("P-256",)),
    "ES384": _Kind("EC", ("P-384",)),
    "ES512": _Kind("EC", ("P-521",)),
    "EdDSA": _Kind("OKP", ("Ed25519", "Ed448")),
}
"""The algorithms that can be allowed (RFC 7518 section 3.1, RFC 8037), and their keys.

None with a shared secret: what verifies such a token could also make it, and a
public key taken for a secret would let anybody do so.
"""

_READERS: Mapping[str, Callable[[dict[str, Any]], Any]] = {
    "RSA": RSAAlgorithm.from_jwk,
    "EC": ECAlgorithm.from_jwk,
    "OKP": OKPAlgorithm.from_jwk,
}

_PUBLIC = ("kty", "crv", "n", "e", "x", "y")

_RSA_BITS = 2048
"""The least (RFC 7518 section 3.3)."""


class Key(NamedTuple):
    """A public key of the provider's, and what it verifies."""

    kid: str | None
    algorithms: frozenset[str]
    public: Any


def parse_keys(document: Mapping[str, Any]) -> tuple[Key, ...]:
    """Return those keys of a JWK Set that verify signatures; others are passed over (RFC 7517).

    :raises ValueError: it is no JWK Set.
    """
    found = document.get("keys")
    if not isinstance(found, list):
        raise ValueError("no set of keys: there is no list 'keys'")
    return tuple(key for each in found if isinstance(each, dict) and (key := _parse_key(each)))


def _parse_key(jwk: dict[str, Any]) -> Key | None:
    kty, curve, kid = jwk.get("kty", ""), jwk.get("crv"), jwk.get("kid")
    fits = {
        name
        for name, kind in ALGORITHMS.items()
        if kind.kty == kty
        and (not kind.curves or curve in kind.curves)
        and jwk.get("alg", name) == name
    }
    if not fits or jwk.get("use", "sig") != "sig" or not isinstance(kid, str | None):
        return None
    try:
        if "verify" not in jwk.get("key_ops", ["verify"]):
            return None
        # A file may hold the private half; it has no business here.
        public = _READERS[kty]({name: jwk[name] for name in _PUBLIC if name in jwk})
    except Exception:
        # One odd key of a set must not take the others with it.
        return None
    if kty == "RSA" and public.key_size < _RSA_BITS:
        return None
    return Key(kid, frozenset(fits), public)


def _fitting(keys: Sequence[Key], kid: str | None, algorithm: str) -> list[Any]:
    return [key.public for key in keys if algorithm in key.algorithms and kid in (None, key.kid)]


class KeySource(Protocol):
    """Where the provider's public keys come from."""

    async def find(self, kid: str | None, algorithm: str) -> Sequence[Any]:
        """Return the keys for an algorithm, of that name if one is given; it may be none.

        :raises popserv.auth.oauth.provider.ProviderError: they cannot be had.
        """


class KeyFile:
    """A JWK Set in a file, read again whenever the file changes."""

    def __init__(self, path: str, run: Callable[..., Awaitable[Any]] = _reading.run) -> None:
        self.path = path
        self._run = run
        self._known: tuple[tuple[int, ...], tuple[Key, ...]] = ((), ())

    def read(self) -> tuple[Key, ...]:
        """Return the keys as the file has them now; it blocks.

        :raises ProviderFault: the file cannot be read, or holds no key of use.
        """
        stamp, keys = self._known
        try:
            if stamp != _stamp(os.stat(self.path)):
                with open(self.path, "rb") as file:
                    found = _stamp(os.fstat(file.fileno()))
                    keys = parse_keys(parse_object(file.read(MAX_ANSWER)))
                if not keys:
                    raise ValueError("no key that verifies signatures")
                self._known = found, keys
        except OSError as error:
            raise ProviderError(f"cannot read {self.path}: {error.strerror}") from error
        except ValueError as error:
            raise ProviderError(f"{self.path}: {error}") from None
        return keys

    async def find(self, kid: str | None, algorithm: str) -> Sequence[Any]:
        """Return the keys that fit."""
        return _fitting(await self._run(self.read), kid, algorithm)


def _stamp(found: os.stat_result) -> tuple[int, ...]:
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


class KeyURL:
    """A JWK Set at a URL, fetched when it is first needed and kept.

    It is fetched again when it is older than ``FRESH``, or when a token names a key
    that is not there, as after a rotation; but never twice within ``PAUSE``, so that
    invented names cannot make this server pester the provider.  While the provider
    is out of reach, the keys last had are good for ``STALE``.  All in seconds.
    """

    FRESH = 3600.0
    PAUSE = 30.0
    STALE = 86_400.0

    log = Logger()

    def __init__(
        self,
        url: str,
        provider: Provider | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url
        self._provider = provider or Provider()
        self._clock = clock
        self._keys: tuple[Key, ...] = ()
        self._fetched = self._tried = -math.inf
        self._fault: ProviderError | None = None
        self._waiters: list[Deferred[None]] = []

    async def find(self, kid: str | None, algorithm: str) -> Sequence[Any]:
        """Return the keys that fit, having fetched them if need be."""
        if self._clock() - self._fetched >= self.FRESH:
            await self._renew()
        found = _fitting(self._keys, kid, algorithm)
        if not found:
            await self._renew()
            found = _fitting(self._keys, kid, algorithm)
        if self._fault and (not found or self._clock() - self._fetched >= self.STALE):
            raise ProviderError(str(self._fault))
        return found

    async def _renew(self) -> None:
        """Fetch the keys, or wait for the fetch that is under way; what came of it is kept."""
        waiter: Deferred[None] = Deferred()
        self._waiters.append(waiter)
        if len(self._waiters) == 1:
            Deferred.fromCoroutine(self._fetch())
        await waiter

    async def _fetch(self) -> None:
        if self._clock() - self._tried >= self.PAUSE:
            self._tried = self._clock()
            try:
                self._keys = parse_keys(await self._provider.request(self.url))
                self._fetched, self._fault = self._clock(), None
            except Exception as error:
                # Whatever it is, those who wait must hear of it.
                known = isinstance(error, ProviderError)
                self._fault = ProviderError(str(error) if known else f"{self.url}: {error}")
                self.log.warn("keys not fetched: {fault}", fault=self._fault)
        # Each has a Deferred of its own: one that is cancelled must not cancel the others'.
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.callback(None)
