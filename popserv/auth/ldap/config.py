"""The file of ``--auth ldap:FILE``; docs/howto/ldap.rst explains its keys."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from ldap.dn import escape_dn_chars, is_dn
from ldap.filter import escape_filter_chars

from popserv.auth.users.extra_fields import is_field
from popserv.runtime.config_files import FileError
from popserv.runtime.toml_file import TOMLFile

KEYS = (
    *("urls", "start-tls", "ca-file", "timeout", "connections"),
    *("user-dn", "base", "filter", "bind-dn", "bind-password", "name", "fields"),
)

SEARCH_KEYS = ("base", "filter", "bind-dn", "bind-password")
"""The keys of a search for the user, which ``user-dn`` replaces."""

MAX_CONNECTIONS = 100
MAX_TIMEOUT = 300

_VARIABLES = {"%u": "user", "%n": "local", "%d": "domain"}


class LDAPConfig:
    """What the file says.

    :ivar path: the path of the file.
    :ivar urls: the URLs of the servers, in the order in which they are tried.
    :ivar start_tls: whether connections by ``ldap:`` start TLS.
    :ivar ca_file: the certificates that verify servers, or empty for those of the system.
    :ivar timeout: the seconds after which a look-up is given up.
    :ivar connections: the greatest number of look-ups at once.
    :ivar user_dn: the template of users' DNs; empty if they are searched for.
    :ivar base: where the search begins.
    :ivar filter: the template of its filter.
    :ivar bind_dn: as whom the search is made; empty for an anonymous one.
    :ivar bind_password: the password for that.
    :ivar name: the attribute with the user's name.
    :ivar fields: attributes by the names of the extra fields that they are.

    :raises popserv.runtime.config_files.FileError: the file cannot be used.
    """

    def __init__(self, path: str) -> None:
        if not path:
            raise FileError("--auth ldap requires a file name; use --auth ldap:FILE")
        file = TOMLFile(path, KEYS)
        self.path = file.path
        self.urls = file.texts("urls")
        for url in self.urls:
            _check_url(file, url)
        self.start_tls = file.flag("start-tls", True)
        self.ca_file = file.text("ca-file") if "ca-file" in file else ""
        if self.ca_file:
            _check_readable(file, self.ca_file)
        self.timeout = file.number("timeout", 5, MAX_TIMEOUT)
        self.connections = file.number("connections", 4, MAX_CONNECTIONS)
        self.name = file.text("name", "uid")
        self.fields: Mapping[str, str] = file.table("fields")
        for field in self.fields:
            if not is_field(field):
                raise file.error(f"fields.{field}", "is no extra field; see the users file")
        self.user_dn = self.base = self.filter = self.bind_dn = self.bind_password = ""
        if "user-dn" in file:
            self._read_template(file)
        else:
            self._read_search(file)

    def _read_template(self, file: TOMLFile) -> None:
        self.user_dn = file.text("user-dn")
        for key in SEARCH_KEYS:
            if key in file:
                raise file.error(key, "cannot be used with user-dn, which needs no search")
        _check_template(file, "user-dn", self.user_dn)
        if not is_dn(fill(self.user_dn, dict.fromkeys(_VARIABLES.values(), "x"), escape_dn_chars)):
            raise file.error("user-dn", "is not a DN, such as uid=%n,ou=people,dc=example,dc=org")

    def _read_search(self, file: TOMLFile) -> None:
        self.base = file.text("base")
        if not is_dn(self.base):
            raise file.error("base", "is not a DN, such as ou=people,dc=example,dc=org")
        self.filter = file.text("filter")
        _check_template(file, "filter", self.filter)
        if "bind-dn" in file or "bind-password" in file:
            self.bind_dn = file.text("bind-dn")
            self.bind_password = file.text("bind-password")
            if not is_dn(self.bind_dn):
                raise file.error("bind-dn", "is not a DN, such as cn=popserv,dc=example,dc=org")

    def dn_of(self, parts: Mapping[str, str]) -> str:
        """Return the DN of a user, whose name has these parts."""
        return fill(self.user_dn, parts, escape_dn_chars)

    def filter_of(self, parts: Mapping[str, str]) -> str:
        """Return the filter for a user, whose name has these parts."""
        return fill(self.filter, parts, escape_filter_chars)


def fill(template: str, parts: Mapping[str, str], escape: Callable[[str], str]) -> str:
    """Replace the variables in a template by escaped parts of a name, and ``%%`` by a percent."""

    def value(variable: re.Match[str]) -> str:
        name = _VARIABLES.get(variable[0])
        return "%" if name is None else escape(parts[name])

    return re.sub("%.", value, template)


def _check_template(file: TOMLFile, key: str, template: str) -> None:
    used = set(re.findall("%.?", template)) - {"%%"}
    for variable in sorted(used - _VARIABLES.keys()):
        raise file.error(key, f"{variable} is not known: use %u, %n, %d, or %% for a percent sign")
    if not used & {"%u", "%n"}:
        raise file.error(key, "every user would get the same entry; use %u or %n")


def _check_url(file: TOMLFile, url: str) -> None:
    # What follows the server would be a search, which the other keys describe.
    try:
        parts = urlsplit(url)
        is_server = bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_server = False
    is_whole = is_server and parts.path in ("", "/") and not parts.query
    if not (is_whole and parts.scheme in ("ldap", "ldaps", "ldapi")):
        problem = "is not the URL of a server, such as ldaps://ldap.example.org"
        raise file.error("urls", f"{url!r} {problem}")


def _check_readable(file: TOMLFile, path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise file.error("ca-file", f"{path} cannot be read: {error.strerror}") from None
