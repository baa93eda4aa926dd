"""The provider's public keys: a JWK Set (RFC 7517), read from a file or fetched from a URL."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from popserv.auth.oauth.provider import (
    MAX_RESPONSE_OCTETS,
    ProviderClient,
    ProviderError,
    parse_json_object,
)
from popserv.runtime.permissions import reason_of
from popserv.runtime.threads import BoundedThreadPool

_file_threads = BoundedThreadPool("popserv-keys", threads=1, backlog=200)


class _KeyType(NamedTuple):
    """The key that an algorithm requires: ``kty`` and ``crv`` of its JWK."""

    kty: str
    curves: tuple[str, ...] = ()


ALGORITHMS: Mapping[str, _KeyType] = {
    "RS256": _KeyType("RSA"),
    "RS384": _KeyType("RSA"),
    "RS512": _KeyType("RSA"),
    "PS256": _KeyType("RSA"),
    "PS384": _KeyType("RSA"),
    "PS512": _KeyType("RSA"),
    "ES256": _KeyType("EC", ("P-256",)),
    "ES384": _KeyType("EC", ("P-384",)),
    "ES512": _KeyType("EC", ("P-521",)),
    "EdDSA": _KeyType("OKP", ("Ed25519", "Ed448")),
}
"""The supported signature algorithms (RFC 7518 section 3.1, RFC 8037), and their keys.

Algorithms with a shared secret are not supported: a server that can verify such a token could
also create it, and an attacker could use a public key as the secret (RFC 8725 section 2.1).
"""

_KEY_LOADERS: Mapping[str, Callable[[dict[str, Any]], Any]] = {
    "RSA": RSAAlgorithm.from_jwk,
    "EC": ECAlgorithm.from_jwk,
    "OKP": OKPAlgorithm.from_jwk,
}

_PUBLIC_PARAMETERS = ("kty", "crv", "n", "e", "x", "y")

# RFC 7518 section 3.3.
_MIN_RSA_BITS = 2048


class JWK(NamedTuple):
    """A public key of a JWK Set, and the algorithms whose signatures it verifies."""

    kid: str | None
    algorithms: frozenset[str]
    public_key: Any


def parse_jwk_set(document: Mapping[str, Any]) -> tuple[JWK, ...]:
    """Return the keys of a JWK Set that verify signatures.

    Other keys are ignored (RFC 7517 section 5), such as keys of an unknown type, invalid keys and
    RSA keys of less than 2048 bits.

    :raises ValueError: the document is not a JWK Set.
    """
    found = document.get("keys")
    if not isinstance(found, list):
        raise ValueError("not a JWK Set: it has no array 'keys'")
    return tuple(key for each in found if isinstance(each, dict) and (key := _parse_jwk(each)))


def _parse_jwk(jwk: dict[str, Any]) -> JWK | None:
    kty, curve, kid = jwk.get("kty", ""), jwk.get("crv"), jwk.get("kid")
    algorithms = {
        name
        for name, key_type in ALGORITHMS.items()
        if key_type.kty == kty
        and (not key_type.curves or curve in key_type.curves)
        and jwk.get("alg", name) == name
    }
    if not algorithms or jwk.get("use", "sig") != "sig" or not isinstance(kid, str | None):
        return None
    try:
        if "verify" not in jwk.get("key_ops", ["verify"]):
            return None
        # The file may contain the private key, which is not needed in memory.
        public_key = _KEY_LOADERS[kty](
            {name: jwk[name] for name in _PUBLIC_PARAMETERS if name in jwk}
        )
    except Exception:
        # An invalid key must not make the other keys of the set unusable.
        return None
    if kty == "RSA" and public_key.key_size < _MIN_RSA_BITS:
        return None
    return JWK(kid, frozenset(algorithms), public_key)


def _matching_keys(keys: Sequence[JWK], kid: str | None, algorithm: str) -> list[Any]:
    return [
        key.public_key for key in keys if algorithm in key.algorithms and kid in (None, key.kid)
    ]


class KeySource(Protocol):
    """Provides the provider's public keys."""

    async def find(self, kid: str | None, algorithm: str) -> Sequence[Any]:
        """Return the keys for an algorithm; with ``kid``, only those that have this key ID.

        The sequence may be empty.

        :raises popserv.auth.oauth.provider.ProviderError: the keys are unavailable.
        """


class JWKSFile:
    """A JWK Set in a file, which is read again when the file has changed."""

    def __init__(self, path: str, run: Callable[..., Awaitable[Any]] = _file_threads.run) -> None:
        self.path = path
        self._run = run
        self._cached: tuple[tuple[int, ...], tuple[JWK, ...]] = ((), ())

    def read(self) -> tuple[JWK, ...]:
        """Return the keys that the file has now.  This blocks.

        :raises ProviderError: the file cannot be read, is not a JWK Set, or has no usable key.
        """
        fingerprint, keys = self._cached
        try:
            if fingerprint != _fingerprint(os.stat(self.path)):
                with open(self.path, "rb") as file:
                    fingerprint = _fingerprint(os.fstat(file.fileno()))
                    keys = parse_jwk_set(parse_json_object(file.read(MAX_RESPONSE_OCTETS)))
                if not keys:
                    raise ValueError("the JWK Set has no usable signature key")
                self._cached = fingerprint, keys
        except OSError as error:
            raise ProviderError(f"cannot read {self.path}: {reason_of(error)}") from error
        except ValueError as error:
            raise ProviderError(f"{self.path}: {error}") from None
        return keys

    async def find(self, kid: str | None, algorithm: str) -> Sequence[Any]:
        """Return the matching keys; see :class:`KeySource`."""
        return _matching_keys(await self._run(self.read), kid, algorithm)


def _fingerprint(found: os.stat_result) -> tuple[int, ...]:
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


class JWKSURL:
    """A JWK Set at a URL, which is fetched when it is first needed, and cached.

    It is fetched again when it is older than ``MAX_AGE``, or when a token has a key ID that is not
    in the set, as after a key rotation.  There is at most one fetch in ``MIN_FETCH_INTERVAL``, so
    that tokens with made-up key IDs cannot overload the provider.  If a fetch fails, the cached
    keys stay in use until they are older than ``MAX_STALE_AGE``.  All are in seconds.
    """

    MAX_AGE = 3600.0
    MIN_FETCH_INTERVAL = 30.0
    MAX_STALE_AGE = 86_400.0

    log = Logger()

    def __init__(
        self,
        url: str,
        client: ProviderClient | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url
        self._client = client or ProviderClient()
        self._clock = clock
        self._keys: tuple[JWK, ...] = ()
        self._fetched_at = self._attempted_at = -math.inf
        self._last_error: ProviderError | None = None
        self._waiters: list[Deferred[None]] = []

    async def find(self, kid: str | None, algorithm: str) -> Sequence[Any]:
        """Return the matching keys, after a fetch if necessary; see :class:`KeySource`."""
        if self._age() >= self.MAX_AGE:
            await self._refresh()
        found = _matching_keys(self._keys, kid, algorithm)
        if not found:
            await self._refresh()
            found = _matching_keys(self._keys, kid, algorithm)
        if self._last_error and (not found or self._age() >= self.MAX_STALE_AGE):
            raise ProviderError(str(self._last_error))
        return found

    def _age(self) -> float:
        return self._clock() - self._fetched_at

    async def _refresh(self) -> None:
        """Fetch the keys, or wait for the fetch in progress; the attributes have the outcome."""
        waiter: Deferred[None] = Deferred()
        self._waiters.append(waiter)
        if len(self._waiters) == 1:
            Deferred.fromCoroutine(self._fetch())
        await waiter

    async def _fetch(self) -> None:
        if self._clock() - self._attempted_at >= self.MIN_FETCH_INTERVAL:
            self._attempted_at = self._clock()
            try:
                self._keys = parse_jwk_set(await self._client.request(self.url))
                self._fetched_at, self._last_error = self._clock(), None
            except Exception as error:
                # Every error, also an unexpected one, must end the wait of all logins.
                is_provider_error = isinstance(error, ProviderError)
                text = str(error) if is_provider_error else f"{self.url}: {error}"
                self._last_error = ProviderError(text)
                self.log.warn("JWK Set not fetched: {error}", error=self._last_error)
        # Each login has its own Deferred, so that one can be cancelled without the others.
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.callback(None)
