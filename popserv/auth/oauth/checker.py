"""The credentials checker for bearer tokens, sent with OAUTHBEARER or XOAUTH2 (RFC 7628)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from jwt.utils import base64url_encode
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import ICredentials
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import Interface, implementer

from popserv.auth.names import with_domain
from popserv.auth.oauth.config import OAuthFile, OAuthFileError, make_verifier
from popserv.auth.oauth.jwks import ALGORITHMS
from popserv.auth.oauth.jwt_verifier import JWTVerifier
from popserv.auth.oauth.provider import ProviderError
from popserv.auth.oauth.verifier import InsufficientScope, InvalidToken, ITokenVerifier
from popserv.core.findings import Finding, error
from popserv.core.printable import one_line, printable
from popserv.errors import POPError, TryLater
from popserv.interfaces import (
    ICredentialsSupport,
    IDefaultDomain,
    IDiagnosed,
    IReloadable,
    ITokenCredentials,
)

_FALSE_TOKENS = tuple(
    base64url_encode(json.dumps({"alg": algorithm}).encode()) + b".e30.AA"
    for algorithm in ALGORITHMS
)
"""Tokens without a valid signature, one for each algorithm: a verifier may allow only one."""


@implementer(ICredentialsChecker, ICredentialsSupport, IDefaultDomain, IDiagnosed, IReloadable)
class TokenChecker:
    """Authenticates users by bearer tokens that ``verifier`` accepts.

    ``user_claims`` are the claims that may contain the user's name; the first that is a non-empty
    string is used.  ``scope`` is the scope that a token must have, words separated by spaces; None
    requires no scope.  ``discovery_url`` is the URL of the provider's metadata (RFC 8414); it is
    sent to clients whose token is rejected, so that they can find out where to get another token.
    """

    credentialInterfaces = (ITokenCredentials,)
    default_domain = b""

    log = Logger()
    _file: OAuthFile | None = None
    """The configuration file, if there is one."""

    def __init__(
        self,
        verifier: ITokenVerifier,
        *,
        user_claims: Sequence[str] = ("email",),
        scope: str | None = None,
        discovery_url: str | None = None,
    ) -> None:
        self._verifier = verifier
        self._user_claims = tuple(user_claims)
        self._scope = scope
        self._discovery_url = discovery_url

    @classmethod
    def from_file(cls, path: str) -> TokenChecker:
        """Return the checker that a configuration file describes; see :doc:`/howto/oauth`.

        :raises popserv.auth.oauth.config.OAuthFileError: the file cannot be read or is invalid.
        """
        file = OAuthFile(path)
        checker = cls(
            make_verifier(file),
            user_claims=file.words("user", "email"),
            scope=" ".join(file.words("scope", "")) or None,
            discovery_url=None if file.get("discovery") is None else file.url("discovery"),
        )
        checker._file = file
        return checker

    def reload(self) -> None:
        """See :class:`popserv.interfaces.IReloadable`.

        Until the file can be used, the previous settings stay in use.
        """
        if self._file is None:
            return
        try:
            current = self.from_file(self._file.path)
        except OAuthFileError as error:
            self.log.error(
                "OAuth settings not reloaded, the previous ones stay in use: {error}", error=error
            )
            return
        if current._file != self._file:
            # Otherwise the verifier stays, whose keys and answers are cached.
            vars(self).update(vars(current))
            self.log.info("{path}: OAuth settings reloaded", path=self._file.path)

    async def diagnose(self) -> Iterable[Finding]:
        """See :class:`popserv.interfaces.IDiagnosed`.

        The provider is asked for its keys, or about a false token.
        """
        where = self._file.path if self._file is not None else "oauth"
        try:
            if isinstance(self._verifier, JWTVerifier):
                # It rejects most false tokens without a key.
                await self._verifier.check_keys()
                return []
            for token in _FALSE_TOKENS:
                with suppress(InvalidToken):
                    await self._verifier.verify(token)
        except (ProviderError, POPError) as problem:
            what = f"tokens cannot be verified: {one_line(str(problem))}"
            return [error("oauth", where, what, "correct the file, or start the provider")]
        return []

    def supports(self, credentials: type[Interface]) -> bool:
        """Return whether these are token credentials."""
        return credentials is ITokenCredentials

    def requestAvatarId(self, credentials: ICredentials) -> Deferred[bytes | tuple[()]]:
        """Return the user's name, which is the text of a claim, in UTF-8.

        If the client gave a name too, both must be equal octet for octet: names that differ in
        case may be one user to the provider, but two maildrops here.

        The Deferred fails with UnauthorizedLogin if the token is rejected, after the client was
        told why.

        :raises TryLater: the token cannot be verified now.
        :raises popserv.errors.POPError: ``credentials.refuse`` raised it.
        """
        return Deferred.fromCoroutine(self._check(credentials))

    async def _check(self, credentials: Any) -> bytes | tuple[()]:
        try:
            claims = await self._verifier.verify(credentials.token)
            self._check_scope(claims)
            name = with_domain(self._user_name(claims), self.default_domain)
            if credentials.username not in (b"", name):
                raise InvalidToken(f'belongs to the user "{printable(name)}"')
            credentials.username = name
            return name
        except ProviderError as error:
            raise TryLater from error
        except InvalidToken as error:
            refusal = error
        await credentials.refuse(self._error_for_client(refusal.status))
        raise UnauthorizedLogin(f"the token {refusal}")

    def _check_scope(self, claims: Mapping[str, Any]) -> None:
        if self._scope is None:
            return
        # "scope" is a string (RFC 7662, RFC 9068); some providers have "scp", or arrays.
        granted: set[str] = set()
        for value in (claims.get("scope"), claims.get("scp")):
            if isinstance(value, str):
                granted.update(value.split())
            elif isinstance(value, list):
                granted.update(each for each in value if isinstance(each, str))
        if not granted.issuperset(self._scope.split()):
            raise InsufficientScope(f"does not have the scope {self._scope}")

    def _user_name(self, claims: Mapping[str, Any]) -> bytes:
        for claim in self._user_claims:
            value = claims.get(claim)
            if not isinstance(value, str) or not value:
                continue
            # Otherwise users could enter another user's address in their own profile.
            if claim == "email" and claims.get("email_verified", True) not in (True, "true"):
                raise InvalidToken("has an unverified email address")
            try:
                return value.encode("utf-8")
            except UnicodeEncodeError:
                raise InvalidToken(f"has invalid Unicode in the claim {claim}") from None
        raise InvalidToken(f"has no user name in {' or '.join(self._user_claims)}")

    def _error_for_client(self, status: str) -> Mapping[str, str]:
        """Return the error that is sent to the client (RFC 7628 section 3.2.2)."""
        error = {"status": status}
        if self._scope is not None:
            error["scope"] = self._scope
        if self._discovery_url is not None:
            error["openid-configuration"] = self._discovery_url
        return error
