"""The checker of bearer tokens, for OAUTHBEARER and XOAUTH2 (RFC 7628), and its file.

A verifier says whether a token is good and what it claims; the checker, whose it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import ICredentials
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from zope.interface import Interface, implementer

from popserv.auth.oauth.config import OAuthFileError, _Settings, _verifier
from popserv.auth.oauth.provider import ProviderError
from popserv.auth.oauth.verifier import InsufficientScope, InvalidToken, ITokenVerifier
from popserv.errors import TryLater
from popserv.interfaces import ICredentialsSupport, ITokenCredentials


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
