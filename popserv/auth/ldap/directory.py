"""A login at an LDAP directory, with libldap: search for the user, and bind as the user."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import ldap
from ldap.ldapobject import SimpleLDAPObject

from popserv.auth.ldap.config import LDAPConfig
from popserv.auth.ldap.sockets import connected
from popserv.auth.users.extra_fields import NO_RULES
from popserv.auth.users.outages import ServerUnavailable
from popserv.auth.users.records import user_of
from popserv.auth.users.user import User

Attributes = Mapping[str, Sequence[bytes]]

_AWAY = (
    *(ldap.SERVER_DOWN, ldap.TIMEOUT, ldap.CONNECT_ERROR, ldap.UNAVAILABLE, ldap.BUSY),
    *(ldap.TIMELIMIT_EXCEEDED, ldap.LOCAL_ERROR, ldap.OTHER, ldap.OPERATIONS_ERROR),
)
"""The errors after which another server is tried."""

_REFUSALS = (
    *(ldap.UNWILLING_TO_PERFORM, ldap.STRONG_AUTH_REQUIRED, ldap.PROTOCOL_ERROR),
    *(ldap.INSUFFICIENT_ACCESS, ldap.INAPPROPRIATE_AUTH),
)
"""The errors of an operation that is refused to whoever has not bound, or is not known."""

_LISTS = ("allow_nets", "allow_real_nets")
"""The extra fields that may have several values."""

_BOOLEANS: Mapping[bytes, bool] = {b"TRUE": True, b"FALSE": False}
"""The values of the LDAP syntax Boolean (RFC 4517 section 3.3.3)."""


class Directory:
    """The servers of a configuration.  Every call waits for the network: make it in a thread."""

    def __init__(self, config: LDAPConfig) -> None:
        self._config = config
        # If the first server is silent, there must be time for the next one.
        self._seconds = max(1, config.timeout // len(config.urls))

    def authenticate(self, parts: Mapping[str, str], password: bytes) -> User | None:
        """Return the user whose name has these parts, or None if the password is not the user's.

        ``password`` must not be empty: a server would take that for an anonymous bind, and accept
        it (RFC 4513 section 5.1.2).

        :raises ServerUnavailable: no server answers, or one refuses what the configuration says.
        """
        if self._config.user_dn:
            return self._ask(self._bind_and_read, parts, password)
        return self._ask(self._search_and_bind, parts, password)

    def find(self, parts: Mapping[str, str]) -> User | None:
        """Return the user whose name has these parts, or None, by a search.

        :raises ServerUnavailable: as :meth:`authenticate`.
        """
        return self._ask(lambda connection: self._search(connection, parts)[1])

    def _ask(self, function: Callable[..., User | None], *args: Any) -> User | None:
        """Call a function with a connection to the first server that answers."""
        problems = []
        for url in self._config.urls:
            try:
                with self._connection(url) as connection:
                    return function(connection, *args)
            except _AWAY as error:
                problems.append(f"{url}: {_text_of(error)}")
            except ldap.LDAPError as error:
                raise ServerUnavailable(f"{url}: {_text_of(error)}") from error
        raise ServerUnavailable("; ".join(problems))

    def try_servers(self) -> list[tuple[str, str]]:
        """Return the URL of each server that cannot be used, and the reason.

        It connects as for a login and, if there is a search, binds for it and reads its base.
        """
        problems = []
        for url in self._config.urls:
            try:
                self._try(url)
            except ldap.LDAPError as error:
                problems.append((url, _text_of(error)))
        return problems

    def _try(self, url: str) -> None:
        config = self._config
        with self._connection(url) as connection:
            if config.user_dn:
                # It needs a connection only, and a refusal is an answer.
                with suppress(*_REFUSALS):
                    connection.whoami_s()
            else:
                connection.simple_bind_s(config.bind_dn, config.bind_password)
                connection.search_ext_s(
                    config.base, ldap.SCOPE_BASE, attrlist=["1.1"], timeout=self._seconds
                )

    @contextmanager
    def _connection(self, url: str) -> Iterator[Any]:
        """Connect to a server, and disconnect at the end."""
        with connected(url, self._seconds) as plain:
            if url.startswith("ldaps:"):
                # With this scheme libldap opens its own socket.
                self._check_handshake(plain)
                connection = SimpleLDAPObject(url)
                self._detect_absence(connection)
            else:
                connection = SimpleLDAPObject(url, fileno=plain.detach())
            try:
                self._set_up(connection, url)
                yield connection
            finally:
                connection.unbind_s()

    def _set_up(self, connection: Any, url: str) -> None:
        config = self._config
        connection.set_option(ldap.OPT_NETWORK_TIMEOUT, self._seconds)
        connection.set_option(ldap.OPT_TIMEOUT, self._seconds)
        # Following a referral would send the password to a server that is not configured.
        connection.set_option(ldap.OPT_REFERRALS, 0)
        connection.set_option(ldap.OPT_X_TLS_REQUIRE_CERT, ldap.OPT_X_TLS_DEMAND)
        if config.ca_file:
            connection.set_option(ldap.OPT_X_TLS_CACERTFILE, config.ca_file)
        # It applies the options of TLS, and must be the last of them.
        connection.set_option(ldap.OPT_X_TLS_NEWCTX, 0)
        if config.start_tls and url.startswith("ldap:"):
            connection.start_tls_s()

    def _detect_absence(self, connection: Any) -> None:
        """Let the kernel end the connection if the machine of the server is gone."""
        values = {
            "OPT_X_KEEPALIVE_IDLE": self._seconds,
            "OPT_X_KEEPALIVE_INTERVAL": self._seconds,
            "OPT_X_KEEPALIVE_PROBES": 2,
            # For what was sent, in milliseconds.
            "OPT_TCP_USER_TIMEOUT": 1000 * self._seconds,
        }
        # Libraries before 2.5 do not have all of them.
        for name in values.keys() & vars(ldap).keys():
            connection.set_option(getattr(ldap, name), values[name])

    @staticmethod
    def _check_handshake(plain: socket.socket) -> None:
        """Check that a server answers by TLS; libldap verifies it, but does not give up.

        :raises ldap.SERVER_DOWN: it does not.
        """
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        try:
            # wrap_socket closes the socket if the handshake fails.
            context.wrap_socket(plain).close()
        except OSError as error:
            raise ldap.SERVER_DOWN({"desc": str(error)}) from error

    def _bind_and_read(
        self, connection: Any, parts: Mapping[str, str], password: bytes
    ) -> User | None:
        dn = self._config.dn_of(parts)
        if not self._bind(connection, dn, password):
            return None
        # Only the entry has the name as it is spelled.
        entries = self._entries(connection, dn, ldap.SCOPE_BASE, "(objectClass=*)")
        return self._user_of(dn, entries[0][1] if entries else {})

    def _search_and_bind(
        self, connection: Any, parts: Mapping[str, str], password: bytes
    ) -> User | None:
        dn, user = self._search(connection, parts)
        if user is None or not dn or self._bind(connection, dn, password):
            return user
        return None

    def _search(self, connection: Any, parts: Mapping[str, str]) -> tuple[str, User | None]:
        """Return the DN of the entry that the filter finds, and its user."""
        config = self._config
        try:
            connection.simple_bind_s(config.bind_dn, config.bind_password)
        except ldap.INVALID_CREDENTIALS as error:
            raise ServerUnavailable(f"{config.bind_dn} cannot bind: {_text_of(error)}") from error
        try:
            entries = self._entries(
                connection, config.base, ldap.SCOPE_SUBTREE, config.filter_of(parts)
            )
        except ldap.SIZELIMIT_EXCEEDED:
            return "", self._refused("the filter finds several entries")
        if len(entries) > 1:
            return "", self._refused("the filter finds several entries")
        return (entries[0][0], self._user_of(*entries[0])) if entries else ("", None)

    def _entries(
        self, connection: Any, base: str, scope: int, search: str
    ) -> list[tuple[str, Attributes]]:
        """Return the DN and the attributes of each entry that is found, by lower-case names.

        :raises ldap.SIZELIMIT_EXCEEDED: there are more than two.
        """
        wanted = [self._config.name, *self._config.fields.values()]
        try:
            found = connection.search_ext_s(
                base, scope, search, wanted, timeout=self._seconds, sizelimit=2
            )
        except ldap.NO_SUCH_OBJECT:
            return []
        # What has no DN is a referral.
        return [
            (dn, {name.lower(): values for name, values in attributes.items()})
            for dn, attributes in found
            if dn
        ]

    @staticmethod
    def _bind(connection: Any, dn: str, password: bytes) -> bool:
        """Return whether a password is that of the user with a DN."""
        try:
            connection.simple_bind_s(dn, password)
        except (ldap.INVALID_CREDENTIALS, ldap.NO_SUCH_OBJECT, ldap.INVALID_DN_SYNTAX):
            return False
        except (ldap.UNWILLING_TO_PERFORM, ldap.INAPPROPRIATE_AUTH, ldap.CONSTRAINT_VIOLATION):
            # The account is locked, or has no password.
            return False
        return True

    def _user_of(self, dn: str, attributes: Attributes) -> User:
        names = attributes.get(self._config.name.lower(), ())
        if len(names) != 1:
            reason = f"{dn} has {len(names)} values of {self._config.name} that can be read"
            return self._refused(f"{reason}, it must have one")
        try:
            fields = {
                field: _value_of(field, attributes.get(attribute.lower(), ()))
                for field, attribute in self._config.fields.items()
            }
            return user_of(names[0], b"", fields)
        except ValueError as error:
            return self._refused(f"{dn}: {error}")

    def _refused(self, problem: str) -> User:
        """Return a user who cannot log in, with the reason for the log."""
        return User(b"", b"", NO_RULES._replace(refusal=f"{self._config.path}: {problem}"))


def _value_of(field: str, values: Sequence[bytes]) -> object:
    """Return the value of an extra field for those of its attribute, or None if it has none.

    :raises ValueError: there are several.
    """
    if not values:
        return None
    if len(values) > 1 and field not in _LISTS:
        raise ValueError(f"{field} has several values")
    joined = b",".join(values)
    return _BOOLEANS.get(joined, joined)


def _text_of(error: ldap.LDAPError) -> str:
    """Return what an error says, without what the client has sent."""
    details = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
    texts = [str(details[key]) for key in ("desc", "info") if details.get(key)]
    return ", ".join(texts) or type(error).__name__
