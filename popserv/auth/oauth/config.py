"""The file of the checker of tokens."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from configparser import Error as ConfigError
from configparser import RawConfigParser

from popserv.auth.oauth.introspection import IntrospectionVerifier
from popserv.auth.oauth.jwks import ALGORITHMS, KeyFile, KeySource, KeyURL
from popserv.auth.oauth.jwt_verifier import JWTVerifier
from popserv.auth.oauth.provider import ProviderError, check_url
from popserv.auth.oauth.verifier import ITokenVerifier
from popserv.auth.passwords.users_file import UsersFileError, refuse_if_public


class OAuthFileError(Exception):
    """The file cannot be used; the message is one line: the file, the key, and what mends it."""


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
                refuse_if_public(self.path, mode)
            except UsersFileError as error:
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
