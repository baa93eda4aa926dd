"""The configuration file of ``--auth oauth:FILE``, and the verifier that it describes.

The file is an INI file with one section, ``[oauth]``; docs/howto/oauth.rst explains its keys.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from configparser import Error as ConfigError
from configparser import RawConfigParser

from popserv.auth.oauth.introspection import IntrospectionVerifier
from popserv.auth.oauth.jwks import ALGORITHMS, JWKSURL, JWKSFile, KeySource
from popserv.auth.oauth.jwt_verifier import JWTVerifier
from popserv.auth.oauth.provider import ProviderClient, ProviderError, check_url
from popserv.auth.oauth.verifier import ITokenVerifier
from popserv.runtime.config_files import FileError, check_private
from popserv.runtime.permissions import reason_of

_COMMON_KEYS = {"issuer", "audience", "user", "scope", "discovery"}

KEYS = {
    "jwks": _COMMON_KEYS | {"jwks", "algorithms", "typ"},
    "introspection": _COMMON_KEYS | {"introspection", "client-id", "client-secret", "cache"},
}
"""The verification methods, each named after the key that selects it, and the keys of each."""

_MAX_CACHE_SECONDS = 3600


class OAuthFileError(FileError):
    """The file is invalid; the message is one line with the file, the key and the remedy."""


class OAuthFile:
    """The settings in the file, whose keys are known and belong to one verification method.

    Two files are equal if their settings are.

    :raises OAuthFileError: the file cannot be read or is invalid.
    """

    def __init__(self, path: str) -> None:
        if not path:
            raise OAuthFileError("--auth oauth requires a file name; use --auth oauth:FILE")
        self.path = os.path.abspath(path)
        self._values = self._read()
        known = set().union(*KEYS.values())
        for key in self._values:
            if key not in known:
                raise self.error(key, f"unknown key; the keys are {', '.join(sorted(known))}")
        methods = [method for method in KEYS if method in self._values]
        if len(methods) != 1:
            raise self.error("jwks", "set either jwks or introspection, and not both")
        self.method = methods[0]
        for key in self._values:
            if key not in KEYS[self.method]:
                raise self.error(key, f"cannot be used with {self.method}; remove it")
            if not self._values[key]:
                raise self.error(key, "is empty; set a value or remove the key")

    def _read(self) -> Mapping[str, str]:
        parser = RawConfigParser(default_section="")
        try:
            with open(self.path, encoding="utf-8-sig") as file:
                parser.read_file(file)
                mode = os.fstat(file.fileno()).st_mode
        except OSError as error:
            raise OAuthFileError(f"cannot read {self.path}: {reason_of(error)}") from None
        except UnicodeDecodeError:
            raise OAuthFileError(f"{self.path}: is not UTF-8; save the file as UTF-8") from None
        except ConfigError as error:
            # The parser's own message quotes the line, which may contain the secret.
            found = vars(error)
            line = found["lineno"] if "lineno" in found else found["errors"][0][0]
            raise OAuthFileError(
                f"{self.path}, line {line}: must be [oauth], or key = value below it; "
                "each may be given only once"
            ) from None
        if parser.sections() != ["oauth"]:
            raise OAuthFileError(f"{self.path}: must have exactly one section, [oauth]")
        if parser.has_option("oauth", "client-secret"):
            try:
                check_private(self.path, mode)
            except FileError as error:
                raise OAuthFileError(str(error)) from None
        return dict(parser.items("oauth"))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OAuthFile) and self._values == other._values

    def error(self, key: str, problem: str) -> OAuthFileError:
        """Return an error that names the file and the key."""
        return OAuthFileError(f"{self.path}: {key}: {problem}")

    def get(self, key: str) -> str | None:
        """Return the value of a key, or None if it is not set."""
        return self._values.get(key)

    def require(self, key: str) -> str:
        """Return the value of a key that the verification method requires.

        :raises OAuthFileError: the key is not set.
        """
        if key not in self._values:
            raise self.error(key, f"is missing; {self.method} requires it")
        return self._values[key]

    def words(self, key: str, default: str) -> list[str]:
        """Return a value that is a list of words separated by spaces."""
        return self._values.get(key, default).split()

    def url(self, key: str) -> str:
        """Return a required value that is a URL of the provider.

        :raises OAuthFileError: the key is not set, or the URL is not acceptable.
        """
        url = self.require(key)
        try:
            check_url(url)
        except ValueError as error:
            raise self.error(key, str(error)) from None
        return url

    def seconds(self, key: str) -> int:
        """Return a value that is a number of seconds; the default is 0.

        :raises OAuthFileError: the value is not a number, or exceeds 3600.
        """
        value = self._values.get(key, "0")
        if not re.fullmatch("[0-9]{1,4}", value) or int(value) > _MAX_CACHE_SECONDS:
            raise self.error(key, f"must be a number of seconds from 0 to {_MAX_CACHE_SECONDS}")
        return int(value)


def make_verifier(settings: OAuthFile) -> ITokenVerifier:
    """Return the verifier that the file describes.

    :raises OAuthFileError: a key is missing or has an invalid value.
    """
    if settings.method == "introspection":
        return IntrospectionVerifier(
            settings.url("introspection"),
            settings.require("client-id"),
            settings.require("client-secret"),
            issuer=settings.get("issuer"),
            audience=settings.words("audience", ""),
            cache_seconds=settings.seconds("cache"),
            client=_client_for(settings, "introspection"),
        )
    try:
        return JWTVerifier(
            _key_source(settings),
            issuer=settings.require("issuer"),
            audience=settings.require("audience").split(),
            algorithms=settings.words("algorithms", " ".join(ALGORITHMS)),
            typ=settings.get("typ"),
        )
    except ValueError:
        raise settings.error(
            "algorithms", f"must be some of {' '.join(ALGORITHMS)}, separated by spaces"
        ) from None


def _client_for(settings: OAuthFile, key: str) -> ProviderClient:
    client = ProviderClient()
    try:
        client.prepare(settings.url(key))
    except MemoryError:
        raise settings.error(
            key,
            "an https URL requires memory that is writable and executable; remove "
            "MemoryDenyWriteExecute=yes from the unit of systemd",
        ) from None
    return client


def _key_source(settings: OAuthFile) -> KeySource:
    location = settings.require("jwks")
    if "://" in location:
        return JWKSURL(settings.url("jwks"), _client_for(settings, "jwks"))
    directory = os.path.dirname(settings.path)
    keys = JWKSFile(os.path.join(directory, location))
    try:
        keys.read()
    except ProviderError as error:
        raise settings.error("jwks", str(error)) from None
    return keys
