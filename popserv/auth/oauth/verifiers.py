"""Verifiers of bearer tokens: by signature (RFC 7519), or by asking the provider (RFC 7662).

A verifier returns the claims of a token that is good, and whoever asked it judges
for whom.  No text of an error holds a token or a piece of one.
"""

from __future__ import annotations

import base64
import math
import os
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote_plus

from jwt import PyJWS, PyJWTError
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.logger import Logger
from zope.interface import Interface, implementer

from popserv.auth.oauth.provider import MAX_ANSWER, Provider, ProviderError, parse_object
from popserv.errors import TryLater
from popserv.runtime.threads import BoundedThreadPool

_reading = BoundedThreadPool("popserv-keys", threads=1, backlog=200)

MAX_TOKEN = 1 << 16
"""The longest token, in octets; longer ones are refused before anything is computed."""

LEEWAY = 30.0
"""Seconds that the provider's clock and ours may differ."""

Now = Callable[[], float]
"""A clock in seconds since the epoch."""


_LAST_SECOND = 1 << 40
"""More than any time in seconds, and less than today's in milliseconds."""


class InvalidToken(Exception):
    """The token opens nothing.

    The text, for the log, goes on where "the token" begins a sentence; ``status`` is
    the error for the client (RFC 6750 section 3.1).
    """

    status = "invalid_token"


class InsufficientScope(InvalidToken):
    """The token is good, but not for this."""

    status = "insufficient_scope"


class ITokenVerifier(Interface):
    """Tells whether a bearer token is good."""

    def verify(token: bytes) -> Awaitable[Mapping[str, Any]]:
        """Return the claims of a good token (RFC 7519 section 4, RFC 7662 section 2.2).

        :raises InvalidToken: it is not good, and will not be.
        :raises popserv.auth.oauth.provider.ProviderError: nobody can tell now.
        :raises popserv.errors.POPError: likewise, with a text for the client.
        """


_BEARER = re.compile(rb"[A-Za-z0-9._~+/-]+=*")


def check_form(token: bytes) -> None:
    """Raise InvalidToken if it is no bearer token (RFC 6750 section 2.1), or is a huge one."""
    if len(token) > MAX_TOKEN:
        raise InvalidToken("is too long")
    if not _BEARER.fullmatch(token):
        raise InvalidToken("is of no token's form")


class Demands(NamedTuple):
    """What a token's claims must say besides being in time.

    ``issuer`` is who must have issued it, None for anybody; ``audience`` for whom,
    one of these or, if it is empty, anybody.
    """

    issuer: str | None = None
    audience: tuple[str, ...] = ()
    leeway: float = LEEWAY

    def check(self, claims: Mapping[str, Any], now: float) -> None:
        """Raise InvalidToken unless claims that are known to be true meet the demands.

        ``exp`` is the first second at which the token is no longer good (RFC 7519 section
        4.1.4), ``nbf`` the first at which it is, ``iat`` when it was made.
        """
        expires = _seconds(claims, "exp")
        if expires is not None and now >= expires + self.leeway:
            raise InvalidToken("has expired")
        for name in ("nbf", "iat"):
            since = _seconds(claims, name)
            if since is not None and now < since - self.leeway:
                raise InvalidToken(f"is not valid yet, by its {name}")
        issuer, audience = claims.get("iss"), claims.get("aud")
        if self.issuer is not None and issuer != self.issuer:
            raise InvalidToken(f"is from the issuer {issuer!r:.200}")
        if self.audience:
            among = audience if isinstance(audience, list) else [audience]
            if not any(each in among for each in self.audience):
                raise InvalidToken(f"is for the audience {audience!r:.200}")


def _seconds(claims: Mapping[str, Any], name: str) -> float | None:
    """Return a time that a claim says (RFC 7519 section 2, NumericDate), or None."""
    value = claims.get(name)
    if value is None:
        return None
    # A bool is an int to Python; and NaN, which its JSON knows, is within no bounds.
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value < _LAST_SECOND:
        raise InvalidToken(f"has an {name} that is no time")
    return float(value)


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


@implementer(ITokenVerifier)
class JWTVerifier:
    """Verifies JWTs that are signed by a provider's key (RFC 7519, RFC 7515, RFC 8725).

    ``audience`` is who a token may be for, one or several; ``algorithms`` are the
    names of those allowed, out of :data:`ALGORITHMS`; ``typ``, if given, what the header
    must say of itself, such as ``at+jwt`` (RFC 9068).

    A token costs 60 to 400 microseconds and one of ``MAX_TOKEN`` octets 3 milliseconds,
    about what the way to a thread and back costs, so the reactor's thread verifies it.

    :raises ValueError: nobody is the audience, or an algorithm is none of ours.
    """

    def __init__(
        self,
        keys: KeySource,
        *,
        issuer: str,
        audience: str | Sequence[str],
        algorithms: Sequence[str] = tuple(ALGORITHMS),
        typ: str | None = None,
        leeway: float = LEEWAY,
        now: Now = time.time,
    ) -> None:
        unknown = [name for name in algorithms if name not in ALGORITHMS]
        if unknown or not algorithms:
            raise ValueError(f"algorithms must be some of {' '.join(ALGORITHMS)}")
        if not audience:
            raise ValueError("audience must be somebody")
        self._keys = keys
        self._demands = Demands(issuer, _several(audience), leeway)
        # It has no other algorithm then, whatever a token or a call may say.
        self._jws = PyJWS(algorithms=list(algorithms))
        self._algorithms = frozenset(algorithms)
        self._typ = typ and _media_type(typ)
        self._now = now

    async def verify(self, token: bytes) -> Mapping[str, Any]:
        """Return the claims of a token that is signed, in time, and meant for us."""
        check_form(token)
        kid, algorithm = self._read_header(token)
        keys = await self._keys.find(kid, algorithm)
        if not keys:
            raise InvalidToken("is signed by a key that the provider does not have")
        claims = self._open(token, keys, algorithm)
        if claims.get("exp") is None:
            raise InvalidToken("has no exp: it would be good for ever")
        self._demands.check(claims, self._now())
        return claims

    def _read_header(self, token: bytes) -> tuple[str | None, str]:
        """Return the key's name, if there is one, and the algorithm; nothing of it is proven."""
        # Older releases of PyJWT take more parts than three.
        if token.count(b".") != 2:
            raise InvalidToken("is no signed JWT")
        try:
            header = self._jws.get_unverified_header(token)
        except (PyJWTError, ValueError, RecursionError):
            raise InvalidToken("is no signed JWT") from None
        # Whatever it is, it must be understood (RFC 7515 section 4.1.11), and we know none.
        if "crit" in header:
            raise InvalidToken("has a header 'crit'")
        algorithm = header.get("alg")
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            raise InvalidToken("is signed by an algorithm that is not allowed")
        if self._typ:
            given = header.get("typ")
            if not isinstance(given, str) or _media_type(given) != self._typ:
                raise InvalidToken("is of another type")
        return header.get("kid"), algorithm

    def _open(self, token: bytes, keys: Sequence[Any], algorithm: str) -> dict[str, Any]:
        """Return the claims of a token that one of the keys has signed."""
        for key in keys:
            try:
                return parse_object(self._jws.decode(token, key, [algorithm]))
            except PyJWTError:
                continue
            except ValueError:
                raise InvalidToken("holds no claims") from None
        raise InvalidToken("has a wrong signature")


def _several(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _media_type(text: str) -> str:
    """Return a ``typ`` in the one of its forms that RFC 7515 section 4.1.9 recommends."""
    return text.lower().removeprefix("application/")


@implementer(ITokenVerifier)
class IntrospectionVerifier:
    """Asks the provider about each token (RFC 7662), as the client that it knows us by.

    ``issuer`` and ``audience``, if given, must stand in its answers.  Good answers are
    believed again for ``cache`` seconds, and not beyond a token's own end; without it
    each login asks, so that a token that is revoked is so at once.
    """

    MAX_ASKING = 20
    """Questions at a time."""

    MAX_WAITING = 200
    """Logins that wait to ask; one more is told to try later."""

    MAX_CACHED = 2000
    """Answers that are remembered."""

    def __init__(
        self,
        url: str,
        client_id: str,
        client_secret: str,
        *,
        issuer: str | None = None,
        audience: str | Sequence[str] = (),
        cache: float = 0,
        leeway: float = LEEWAY,
        provider: Provider | None = None,
        now: Now = time.time,
    ) -> None:
        # Each is encoded by itself first, so that a colon parts them (RFC 6749 section 2.3.1).
        pair = f"{quote_plus(client_id)}:{quote_plus(client_secret)}".encode("ascii")
        self._headers = {b"Authorization": b"Basic " + base64.b64encode(pair)}
        self._url = url
        self._demands = Demands(issuer, _several(audience), leeway)
        self._cache = cache
        self._provider = provider or Provider()
        self._now = now
        self._turns = DeferredSemaphore(self.MAX_ASKING)
        self._known: OrderedDict[bytes, tuple[float, Mapping[str, Any]]] = OrderedDict()

    async def verify(self, token: bytes) -> Mapping[str, Any]:
        """Return what the provider says of an active token."""
        check_form(token)
        name = sha256(token).digest()
        until, claims = self._known.get(name, (-math.inf, {}))
        # A clock that was set back must not prolong it either.
        if not until - self._cache <= self._now() < until:
            self._known.pop(name, None)
            claims = await self._ask(token)
            # Only true will do, not 1 or "true": what is odd is no yes.
            if claims.get("active") is not True:
                raise InvalidToken("is not active")
        self._demands.check(claims, self._now())
        if self._cache and name not in self._known:
            self._known[name] = self._now() + self._cache, claims
            if len(self._known) > self.MAX_CACHED:
                self._known.popitem(last=False)
        return claims

    async def _ask(self, token: bytes) -> Mapping[str, Any]:
        if len(self._turns.waiting) >= self.MAX_WAITING:
            raise TryLater("server too busy, try again later")
        form = {"token": token.decode("ascii"), "token_type_hint": "access_token"}
        await self._turns.acquire()
        try:
            return await self._provider.request(self._url, form, self._headers)
        finally:
            self._turns.release()
