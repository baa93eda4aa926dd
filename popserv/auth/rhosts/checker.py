"""The credentials checker for RPOP (RFC 1225), which trusts the hosts in a file.

A host is identified by its IP address, and is trusted to identify its user if the client's port is
reserved, which on that host only root should be able to use.  Both can be faked, so no host is
trusted unless the administrator lists it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import ICredentials
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import Interface, implementer

from popserv.auth.credentials import IPPORT_RESERVED
from popserv.auth.names import check_name, prepared_name
from popserv.auth.rhosts.file import Entries, Network, RhostsFile, RhostsFileError, local_users
from popserv.auth.rhosts.resolver import Addresses, HostResolver, Unresolved, parse_address
from popserv.core.findings import Finding, error, warning
from popserv.errors import TryLater
from popserv.interfaces import (
    ICredentialsSupport,
    IDefaultDomain,
    IDiagnosed,
    IReloadable,
    IRemoteUserCredentials,
)
from popserv.runtime.permissions import reason_of, this_user

LOOKUP_TIMEOUT = 10.0
"""Seconds that a login waits for all its host names; then the others count as unresolved."""


@implementer(ICredentialsChecker, ICredentialsSupport, IDefaultDomain, IDiagnosed, IReloadable)
class RhostsChecker:
    """Authenticates users whom a trusted host has identified, according to an rhosts file.

    The first entry whose host and users match decides; without one the login is refused.  A host
    name that cannot be resolved matches every host in an entry that denies, and no host in an
    entry that allows.

    ``path`` is the file's path.
    """

    credentialInterfaces = (IRemoteUserCredentials,)
    default_domain = b""

    log = Logger()

    def __init__(self, path: str, resolver: HostResolver | None = None) -> None:
        self._path = os.path.abspath(path)
        self._file = RhostsFile(path)
        self._resolver = resolver or HostResolver()
        self._logged_entries: Entries | None = None
        self._last_reported_error = ""

    @classmethod
    def from_file(cls, path: str) -> RhostsChecker:
        """Return a checker whose file is valid; log how many entries allow logins.

        :raises RhostsFileError: the file cannot be used; the message has the remedy.
        """
        if not path:
            raise RhostsFileError("--rhosts requires a file name; use --rhosts FILE")
        checker = cls(path)
        checker._log_entries(checker._file.read())
        return checker

    def reload(self) -> None:
        """See :class:`popserv.interfaces.IReloadable`."""
        self._last_reported_error = ""
        self.supports(IRemoteUserCredentials)

    async def diagnose(self) -> Iterable[Finding]:
        """See :class:`popserv.interfaces.IDiagnosed`."""
        try:
            # Whoever has read it may have been root.
            with open(self._path, "rb"):
                entries = self._file.read()
        except (OSError, RhostsFileError) as problem:
            what = str(problem) if isinstance(problem, RhostsFileError) else reason_of(problem)
            return [error("rhosts", self._path, what, f"correct it, and let {this_user()} read it")]
        found = []
        deadline = self._resolver.now() + LOOKUP_TIMEOUT
        for entry in entries:
            if not isinstance(entry.host, str):
                continue
            if isinstance(await self._resolver.resolve(entry.host, deadline), Unresolved):
                where = f"{self._path}, line {entry.line}"
                what = f"the host name {entry.host} cannot be resolved"
                found.append(warning("rhosts-name", where, what, "correct the name, or the DNS"))
        return found

    def supports(self, credentials: type[Interface]) -> bool:
        """Return whether an entry allows logins by RPOP.

        An invalid file also counts as support: clients are then told to try later.
        """
        if credentials is not IRemoteUserCredentials:
            return False
        try:
            return any(entry.allows for entry in self._read())
        except RhostsFileError:
            return True

    def requestAvatarId(self, credentials: ICredentials) -> Deferred[bytes | tuple[()]]:
        """Return the user whose maildrop is opened.

        The name is the one in the file, or the client's name prepared by RFC 8265.

        The Deferred fails with UnauthorizedLogin if no entry allows the login, if the client's
        port is not reserved, or if the name is not valid in a users file.

        :raises TryLater: the file is invalid, or too many lookups of host names are waiting.
        """
        return Deferred.fromCoroutine(self._check(credentials))

    def _read(self) -> Entries:
        try:
            entries = self._file.read()
        except RhostsFileError as error:
            # Logged once, because clients can trigger this at any rate.
            if self._last_reported_error != str(error):
                self._last_reported_error = str(error)
                self.log.critical("{error}", error=error)
            raise
        self._last_reported_error = ""
        self._log_entries(entries)
        return entries

    def _log_entries(self, entries: Entries) -> None:
        """Log how many entries allow logins, when the file has changed."""
        if entries == self._logged_entries:
            return
        self._logged_entries = entries
        count = sum(entry.allows for entry in entries)
        if not count:
            self.log.warn("no entry of {path} grants access", path=self._path)
            return
        self.log.warn(
            "{path}: entries that allow logins without a password: {count}; root on their hosts, "
            "and anyone who can impersonate such a host, can read that mail",
            path=self._path,
            count=count,
        )

    async def _check(self, credentials: Any) -> bytes | tuple[()]:
        if not 0 < credentials.port < IPPORT_RESERVED:
            raise UnauthorizedLogin("the client's port is not reserved")
        host = credentials.host
        try:
            # ipaddress also accepts integers and packed octets.
            address = parse_address(host if isinstance(host, str) else "")
        except ValueError:
            raise UnauthorizedLogin("the client has no IP address") from None
        name = credentials.username
        prepared = prepared_name(name)
        try:
            # Either of them may become a path.
            check_name(name)
            check_name(prepared)
        except ValueError:
            raise UnauthorizedLogin("not a valid user name") from None
        try:
            entries = self._read()
        except RhostsFileError as error:
            raise TryLater from error
        listed = local_users(entries).find(name, prepared)
        if listed not in (None, name, prepared):
            name, prepared = listed, prepared_name(listed)
        resolved: dict[str, Addresses | Unresolved] = {}
        deadline = self._resolver.now() + LOOKUP_TIMEOUT
        for entry in entries:
            maildrop = entry.maildrop(credentials.remote_user, name, prepared, self.default_domain)
            if maildrop is None:
                continue
            hosts: Network | Addresses | Unresolved
            if not isinstance(entry.host, str):
                hosts = entry.host
            else:
                if entry.host not in resolved:
                    resolved[entry.host] = await self._resolver.resolve(entry.host, deadline)
                hosts = resolved[entry.host]
            matches = not entry.allows if isinstance(hosts, Unresolved) else address in hosts
            if matches and not entry.allows:
                raise _refusal(f"denied by line {entry.line}", resolved)
            if matches:
                return maildrop
        raise _refusal("no entry matches", resolved)


def _refusal(reason: str, resolved: dict[str, Addresses | Unresolved]) -> Exception:
    """Return the error of a login that no entry allows, for a reason.

    It is TryLater if a name is unknown for now: with its addresses, the login might be allowed.
    """
    hosts = [host for host, found in resolved.items() if isinstance(found, Unresolved)]
    if hosts:
        reason += f"; host names not resolved: {len(hosts)}, the first {hosts[0]}"
    refusal = UnauthorizedLogin(reason)
    if Unresolved.TEMPORARY_FAILURE not in resolved.values():
        return refusal
    error = TryLater()
    error.__cause__ = refusal
    return error
