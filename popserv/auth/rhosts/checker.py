"""The checker of RPOP (RFC 1225): it believes hosts about their users, as a file says.

A host is known by its address and believed about its users if its port is reserved, which only
root of that host should have.  Nothing of that is proven, so the file is empty unless somebody
writes in it.
"""

from __future__ import annotations

from typing import Any

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import ICredentials
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import Interface, implementer

from popserv.auth.credentials import IPPORT_RESERVED
from popserv.auth.names import check_name, prepared_name
from popserv.auth.rhosts.file import Entries, Network, RhostsFile, RhostsFileError
from popserv.auth.rhosts.resolver import Addresses, HostNames, address_of
from popserv.errors import TryLater
from popserv.interfaces import ICredentialsSupport, IRemoteUserCredentials

LOOKUP_SECONDS = 10.0
"""How long one check waits for host names, all together; those not found by then are unknown."""


@implementer(ICredentialsChecker, ICredentialsSupport)
class RhostsChecker:
    """Believes hosts about their users as a file says, whose first entry that fits decides.

    No entry lets nobody in.  A host name that cannot be looked up is every host in an entry
    that denies, and no host in one that lets in.
    """

    credentialInterfaces = (IRemoteUserCredentials,)

    log = Logger()

    def __init__(self, path: str, names: HostNames | None = None) -> None:
        self._path = path
        self._file = RhostsFile(path)
        self._names = names or HostNames()
        self._told: Entries | None = None
        self._trouble = ""

    @classmethod
    def from_file(cls, path: str) -> RhostsChecker:
        """Return a checker whose file is in order; the log says whom it trusts.

        :raises RhostsFileError: what is wrong with the file, and what mends it.
        """
        if not path:
            raise RhostsFileError("the rhosts file has no name; give it as --rhosts FILE")
        checker = cls(path)
        checker._tell(checker._file.read())
        return checker

    def supports(self, credentials: type[Interface]) -> bool:
        """Tell whether some entry lets somebody in; so it is for a file in disorder."""
        if credentials is not IRemoteUserCredentials:
            return False
        try:
            return any(entry.lets_in for entry in self._read())
        except RhostsFileError:
            return True

    def requestAvatarId(self, credentials: ICredentials) -> Deferred[bytes | tuple[()]]:
        """Return whose maildrop it is, as the file or RFC 8265 spells it.

        It fails with UnauthorizedLogin also if the client's port is not reserved, whatever
        the caller has checked, or if no users file would take the name.

        :raises TryLater: the file is in disorder, or too many host names are being looked up.
        """
        return Deferred.fromCoroutine(self._check(credentials))

    def _read(self) -> Entries:
        try:
            entries = self._file.read()
        except RhostsFileError as error:
            # Once, for clients ask as often as they like.
            if self._trouble != str(error):
                self._trouble = str(error)
                self.log.critical("{error}", error=error)
            raise
        self._trouble = ""
        self._tell(entries)
        return entries

    def _tell(self, entries: Entries) -> None:
        """Say in the log whom the file trusts, each time that it has changed."""
        if entries == self._told:
            return
        self._told = entries
        count = sum(entry.lets_in for entry in entries)
        if not count:
            self.log.warn("no entry of {path} grants access", path=self._path)
            return
        self.log.warn(
            "entries of {path} that let in without a password: {count}; whoever is root on "
            "their hosts, or can pretend to be such a host, reads that mail",
            path=self._path,
            count=count,
        )

    async def _check(self, credentials: Any) -> bytes | tuple[()]:
        if not 0 < credentials.port < IPPORT_RESERVED:
            raise UnauthorizedLogin("the client's port is not reserved")
        host = credentials.host
        try:
            # Numbers and packed octets are addresses to ipaddress, too.
            address = address_of(host if isinstance(host, str) else "")
        except ValueError:
            raise UnauthorizedLogin("the client has no IP address") from None
        name = credentials.username
        spelt = prepared_name(name)
        try:
            # Both, for either may become a path.
            check_name(name)
            check_name(spelt)
        except ValueError:
            raise UnauthorizedLogin("not a valid user name") from None
        try:
            entries = self._read()
        except RhostsFileError as error:
            raise TryLater from error
        known: dict[str, Addresses | None] = {}
        deadline = self._names.now() + LOOKUP_SECONDS
        for entry in entries:
            maildrop = entry.maildrop(credentials.remote_user, name, spelt)
            if maildrop is None:
                continue
            hosts: Network | Addresses | None
            if not isinstance(entry.host, str):
                hosts = entry.host
            else:
                if entry.host not in known:
                    known[entry.host] = await self._names.addresses(entry.host, deadline)
                hosts = known[entry.host]
            fits = address in hosts if hosts is not None else not entry.lets_in
            if fits and not entry.lets_in:
                raise UnauthorizedLogin(f"line {entry.line} denies it{_unknown(known)}")
            if fits:
                return maildrop
        raise UnauthorizedLogin(f"no entry lets it in{_unknown(known)}")


def _unknown(known: dict[str, Addresses | None]) -> str:
    """Return what to add to a reason if there are names that could not be looked up."""
    hosts = [host for host, addresses in known.items() if addresses is None]
    return f"; host names not found: {len(hosts)}, the first {hosts[0]}" if hosts else ""
