"""The checker of bearer tokens, for OAUTHBEARER and XOAUTH2 (RFC 7628), and its file.

A verifier says whether a token is good and what it claims; the checker, whose it is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from configparser import Error as ConfigError
from configparser import RawConfigParser
from typing import Any

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import ICredentials
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from zope.interface import Interface, implementer

from popserv.auth.files import FileError, check_private
from popserv.auth.oauth.provider import ProviderError, check_url
from popserv.auth.oauth.verifiers import (
    ALGORITHMS,
    InsufficientScope,
    IntrospectionVerifier,
    InvalidToken,
    ITokenVerifier,
    JWTVerifier,
    KeyFile,
    KeySource,
    KeyURL,
)
from popserv.errors import TryLater
from popserv.interfaces import ICredentialsSupport, ITokenCredentials


class OAuthFileError(FileError):
    """The file cannot be used; the message is one line: the file, the key, and what mends it."""


@implementer(ICredentialsChecker, ICredentialsSupport)
class TokenChecker:
    """Lets in who brings a bearer token that ``verifier`` calls good.

    ``user_claims`` are the claims that may hold the user's name; the first that is
    there, and is a text, counts.  ``scope`` is what a token must be for, words parted
    by spaces; None is no scope.  ``discovery`` is the URL of the provider's metadata
    (RFC 8414), which refused clients are told so that they find out where to get a
    better token.
    """

    credentialInterfaces = (ITokenCredentials,)

    def __init__(
        self,
        verifier: ITokenVerifier,
        *,
        user_claims: Sequence[str] = ("email",),
        scope: str | None = None,
        discovery: str | None = None,
    ) -> None:
        self._verifier = verifier
        self._user_claims = tuple(user_claims)
        self._scope = scope
        self._discovery = discovery

    @classmethod
    def from_file(cls, path: str) -> TokenChecker:
        """Return the checker that a file describes; see the documentation for its keys.

        :raises OAuthFileError: what is wrong with the file, and what mends it.
        """
        if not path:
            raise OAuthFileError("the file has no name; give it as oauth:FILE")
        settings = _Settings(path)
        verifier = _verifier(settings)
        return cls(
            verifier,
            user_claims=settings.words("user", "email"),
            scope=" ".join(settings.words("scope", "")) or None,
            discovery=settings.url("discovery") if settings.has("discovery") else None,
        )

    def supports(self, credentials: type[Interface]) -> bool:
        """Tell that tokens can always succeed, and nothing else."""
        return credentials is ITokenCredentials

    def requestAvatarId(self, credentials: ICredentials) -> Deferred[bytes | tuple[()]]:
        """Return the user's name, or fail with UnauthorizedLogin once the client knows why.

        The name is the claim's text in UTF-8.  If the client gave one, too, it must be
        the same, octet for octet: what is one user to a provider that knows no case
        may be two maildrops here.

        :raises TryLater: the verifier cannot tell now.
        :raises popserv.errors.POPError: what ``credentials.refuse`` raised.
        """
        return Deferred.fromCoroutine(self._check(credentials))

    async def _check(self, credentials: Any) -> bytes | tuple[()]:
        try:
            claims = await self._verifier.verify(credentials.token)
            self._check_scope(claims)
            name = self._name(claims)
            if credentials.username not in (b"", name):
                raise InvalidToken(f"is of {name!r:.200}")
            credentials.username = name
            return name
        except ProviderError as fault:
            raise TryLater from fault
        except InvalidToken as error:
            refusal = error
        await credentials.refuse(self._reason(refusal.status))
        raise UnauthorizedLogin(f"the token {refusal}")

    def _check_scope(self, claims: Mapping[str, Any]) -> None:
        if self._scope is None:
            return
        # RFC 7662 and RFC 9068 have a text; some providers have "scp", and lists.
        granted: set[str] = set()
        for given in (claims.get("scope"), claims.get("scp")):
            if isinstance(given, str):
                granted.update(given.split())
            elif isinstance(given, list):
                granted.update(each for each in given if isinstance(each, str))
        if not granted.issuperset(self._scope.split()):
            raise InsufficientScope(f"is not for {self._scope}")

    def _name(self, claims: Mapping[str, Any]) -> bytes:
        for claim in self._user_claims:
            value = claims.get(claim)
            if not isinstance(value, str) or not value:
                continue
            # Else whoever may write an address into a profile is everybody.
            if claim == "email" and claims.get("email_verified", True) not in (True, "true"):
                raise InvalidToken("has an email that is not verified")
            try:
                return value.encode("utf-8")
            except UnicodeEncodeError:
                raise InvalidToken(f"has no text in {claim}") from None
        raise InvalidToken(f"names no user: there is no {' and no '.join(self._user_claims)}")

    def _reason(self, status: str) -> Mapping[str, str]:
        """Return what the client is told (RFC 7628 section 3.2.2)."""
        reason = {"status": status}
        if self._scope is not None:
            reason["scope"] = self._scope
        if self._discovery is not None:
            reason["openid-configuration"] = self._discovery
        return reason


_COMMON = {"issuer", "audience", "user", "scope", "discovery"}

_KEYS = {
    "jwks": _COMMON | {"jwks", "algorithms", "typ"},
    "introspection": _COMMON | {"introspection", "client-id", "client-secret", "cache"},
}
"""What each way of verifying can be told."""

_MAX_CACHE = 3600


class _Settings:
    """The section [oauth] of a file, its keys known and its way of verifying chosen."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._values = self._read()
        known = set().union(*_KEYS.values())
        for key in self._values:
            if key not in known:
                raise self.error(key, f"no such key; there are {', '.join(sorted(known))}")
        ways = [way for way in _KEYS if way in self._values]
        if len(ways) != 1:
            raise self.error("jwks", "give this or introspection, one of them")
        self.way = ways[0]
        for key in self._values:
            if key not in _KEYS[self.way]:
                raise self.error(key, f"goes not with {self.way}, take it out")
            if not self._values[key]:
                raise self.error(key, "is empty; give a value or take it out")

    def _read(self) -> Mapping[str, str]:
        parser = RawConfigParser(default_section="")
        try:
            with open(self.path, encoding="utf-8-sig") as file:
                parser.read_file(file)
                mode = os.fstat(file.fileno()).st_mode
        except OSError as error:
            raise OAuthFileError(f"cannot read {self.path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise OAuthFileError(f"{self.path}: is not UTF-8; save it as that") from None
        except ConfigError as error:
            # Its own text quotes the line, which may hold the secret.
            found = vars(error)
            line = found["lineno"] if "lineno" in found else found["errors"][0][0]
            raise OAuthFileError(
                f"{self.path}, line {line}: must be [oauth], or below it key = value, each once"
            ) from None
        if parser.sections() != ["oauth"]:
            raise OAuthFileError(f"{self.path}: must have one section, [oauth]")
        if parser.has_option("oauth", "client-secret"):
            try:
                check_private(self.path, mode)
            except FileError as error:
                raise OAuthFileError(str(error)) from None
        return dict(parser.items("oauth"))

    def error(self, key: str, what: str) -> OAuthFileError:
        """Return the error for a key."""
        return OAuthFileError(f"{self.path}: {key}: {what}")

    def has(self, key: str) -> bool:
        """Tell whether the key is there."""
        return key in self._values

    def text(self, key: str) -> str:
        """Return the value of a key that is needed."""
        if key not in self._values:
            raise self.error(key, f"is missing; with {self.way} it is needed")
        return self._values[key]

    def words(self, key: str, default: str | None = None) -> list[str]:
        """Return a value's words; without a default it is needed."""
        if default is not None and key not in self._values:
            return default.split()
        return self.text(key).split()

    def url(self, key: str) -> str:
        """Return a value that is a URL to trust."""
        url = self.text(key)
        try:
            check_url(url)
        except ValueError as error:
            raise self.error(key, str(error)) from None
        return url

    def seconds(self, key: str) -> int:
        """Return a number of seconds; 0 if the key is not there."""
        value = self._values.get(key, "0")
        if not re.fullmatch("[0-9]{1,4}", value) or int(value) > _MAX_CACHE:
            raise self.error(key, f"must be seconds, from 0 to {_MAX_CACHE}")
        return int(value)


def _verifier(settings: _Settings) -> ITokenVerifier:
    if settings.way == "introspection":
        return IntrospectionVerifier(
            settings.url("introspection"),
            settings.text("client-id"),
            settings.text("client-secret"),
            issuer=settings.text("issuer") if settings.has("issuer") else None,
            audience=settings.words("audience", ""),
            cache=settings.seconds("cache"),
        )
    try:
        return JWTVerifier(
            _keys(settings),
            issuer=settings.text("issuer"),
            audience=settings.words("audience"),
            algorithms=settings.words("algorithms", " ".join(ALGORITHMS)),
            typ=settings.text("typ") if settings.has("typ") else None,
        )
    except ValueError:
        raise settings.error("algorithms", f"must be some of {' '.join(ALGORITHMS)}") from None


def _keys(settings: _Settings) -> KeySource:
    place = settings.text("jwks")
    if "://" in place:
        return KeyURL(settings.url("jwks"))
    keys = KeyFile(os.path.join(os.path.dirname(os.path.abspath(settings.path)), place))
    try:
        keys.read()
    except ProviderError as fault:
        raise settings.error("jwks", str(fault)) from None
    return keys
