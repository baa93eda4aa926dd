"""The checker of RPOP (RFC 1225), and its file: which user of which host opens which maildrop.

It is the manner of hosts.equiv(5).  A host is known by its address and believed
about its users if its port is reserved, which only root of that host should have.
Nothing of that is proven, so the file is empty unless somebody writes in it.
"""

from __future__ import annotations

import codecs
import os
import re
import shlex
import stat
from collections.abc import Awaitable, Callable
from contextlib import suppress
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from socket import SOCK_STREAM, getaddrinfo
from typing import Any, NamedTuple

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import ICredentials
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import Interface, implementer

from popserv.auth.prepare import prepared_name
from popserv.auth.users_file import UsersFileError, check_name, stamp_of
from popserv.errors import TryLater
from popserv.interfaces import IOfferingChecker, IRemoteUserCredentials
from popserv.session import still_there
from popserv.threads import Threads, Wanted

RESERVED = 1024
"""Ports below it only root can have, where that is so (RFC 1225, RPOP)."""

LOOKUP_SECONDS = 10.0
"""How long one check waits for host names, all together; those not found by then are unknown."""

_resolving = Threads("popserv-rhosts", threads=4, backlog=200)

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Addresses = frozenset[Address]


class RhostsFileError(Exception):
    """The file cannot be used; the message says where, and what mends it."""


# The file

_ANY, _SAME = b"+", b"="


class Entry(NamedTuple):
    """A line of the file, of that number, that lets in or denies.

    ``host`` is a network, or a name in lower case that must be looked up.  ``remote`` is a
    user there, ``+`` for any; ``local`` whose maildrop it is about, ``+`` for anybody's and
    ``=`` for that of the remote user's name; ``spelt`` is the latter by RFC 8265.
    """

    line: int
    lets_in: bool
    host: Network | str
    remote: bytes
    local: bytes
    spelt: bytes

    def maildrop(self, remote_user: bytes, name: bytes, spelt: bytes) -> bytes | None:
        """Return what to open for ``name``, which is ``spelt`` by RFC 8265.

        None: the entry is about other users.  Remote users are other octets if they are
        others, for only their host knows which spellings are one user.
        """
        if self.remote not in (_ANY, remote_user):
            return None
        if self.local == _ANY:
            return spelt
        if self.local == _SAME:
            return remote_user if remote_user in (name, spelt) else None
        return self.local if spelt in (self.local, self.spelt) else None


Entries = tuple[Entry, ...]


class RhostsFile:
    """The entries, re-read whenever the file changes."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._known: tuple[tuple[int, ...], Entries] = ((), ())

    def read(self) -> Entries:
        """Return the entries as the file has them now.

        :raises RhostsFileError: it is not there, cannot be read, has a bad line, or somebody
            besides its owner can write it.
        """
        stamp, entries = self._known
        try:
            if stamp != stamp_of(os.stat(self._path)):
                stamp, entries = self._known = self._load()
        except FileNotFoundError:
            raise RhostsFileError(
                f"there is no {self._path}; make it, an empty one lets nobody in"
            ) from None
        except OSError as error:
            raise RhostsFileError(
                f"cannot read {self._path}: {error.strerror}; "
                "it must be a file that the server's user can read"
            ) from error
        return entries

    def _load(self) -> tuple[tuple[int, ...], Entries]:
        with open(self._path, "rb", opener=_open_at_once) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise RhostsFileError(f"{self._path} is no file; give the name of one")
            if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise RhostsFileError(
                    f"{self._path} can be written by others than its owner; "
                    f"mend it: chmod go-w {shlex.quote(self._path)}"
                )
            return stamp_of(found), parse(self._path, file.read())


def _open_at_once(path: str, flags: int) -> int:
    # A FIFO would wait for somebody to write.
    return os.open(path, flags | os.O_NONBLOCK)


_WORD = re.compile(rb"[^ \t]+")
_COMMENT = re.compile(rb"(?:^|[ \t])#.*")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")


def parse(path: str, text: bytes) -> Entries:
    """Return the entries of a file of this text, in order; ``path`` is for the message.

    :raises RhostsFileError: the first line that is none, by its number.
    """
    entries = []
    lines = text.removeprefix(codecs.BOM_UTF8).split(b"\n")
    for number, line in enumerate(lines, 1):
        words = _WORD.findall(_COMMENT.sub(b"", line.removesuffix(b"\r")))
        if words:
            try:
                entries.append(_entry(number, words))
            except (ValueError, UsersFileError) as error:
                raise RhostsFileError(f"{path}, line {number}: {error}") from None
    return tuple(entries)


def _entry(number: int, words: list[bytes]) -> Entry:
    if any(map(_CONTROL.search, words)):
        raise ValueError("has a control character; take it out")
    if len(words) != 3:
        # Without the words: it may be another kind of file, with secrets.
        raise ValueError(
            f"must have three columns and has {len(words)}: "
            "host, remote user (+ for any), local user (+ for any, = for the same)"
        )
    host, remote, local = words
    lets_in = not (host.startswith(b"-") or remote.startswith(b"-"))
    remote = remote.removeprefix(b"-")
    _check_user(remote, _ANY)
    _check_user(local, _ANY, _SAME)
    if local not in (_ANY, _SAME):
        check_name(local)
    where = _host(host.removeprefix(b"-").decode("ascii", "replace").lower())
    return Entry(number, lets_in, where, remote, local, prepared_name(local))


def _check_user(word: bytes, *signs: bytes) -> None:
    if word not in signs and (not word or word.startswith((b"+", b"-", b"=", b"@"))):
        raise ValueError(
            f"{os.fsdecode(word)!r:.80} is no user here; name one, or give "
            + " or ".join(sign.decode() for sign in signs)
        )


# The resolver takes 10.1 and 0x7f.1 for addresses, so they are no names.
_LABEL = "[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST_NAME = re.compile(rf"(?:{_LABEL}\.)*(?!(?:[0-9]+|0x[0-9a-f]*)\.?$){_LABEL}\.?")
_LONGEST_NAME = 254

_CIDR = re.compile("[0-9a-f.:]+/[0-9]{1,3}")


def _host(word: str) -> Network | str:
    """Return the network or the name that a first column in lower case is.

    :raises ValueError: it is neither; the message says what would be.
    """
    if word == "+":
        raise ValueError(
            "+ is no host; if every machine in the world is really meant, "
            "write two entries, for 0.0.0.0/0 and for ::/0"
        )
    if word.startswith(("@", "+@")):
        raise ValueError("netgroups are not known here; write an entry for each host")
    if "%" in word:
        raise ValueError("an address has no zone here; leave out what begins with %")
    if "/" in word:
        return _network(word)
    with suppress(ValueError):
        return ip_network(address_of(word))
    if len(word) <= _LONGEST_NAME and _HOST_NAME.fullmatch(word):
        return word
    raise ValueError(f"{word!r:.80} is no host; give a name, an address or a network")


def _network(word: str) -> Network:
    if not _CIDR.fullmatch(word):
        raise ValueError(f"{word!r:.80} is no network; write it as in 192.0.2.0/24")
    network = ip_network(word, strict=False)
    first, given = network.network_address, ip_address(word.partition("/")[0])
    if given != first:
        raise ValueError(
            f"{word} has bits behind its prefix; write {network} for all of it, "
            f"or {given} for one host"
        )
    mapped = first.ipv4_mapped if isinstance(first, IPv6Address) else None
    return network if mapped is None else IPv4Network((int(mapped), network.prefixlen - 96))


# Addresses


def address_of(text: str) -> Address:
    """Return an address, without a zone, and an IPv4 one that is mapped to IPv6 as itself.

    :raises ValueError: it is none.
    """
    address = ip_address(text)
    if isinstance(address, IPv4Address):
        return address
    return address.ipv4_mapped or IPv6Address(int(address))


def addresses_of(host: str) -> Addresses:
    """Return all addresses that a name has; this may take long.

    :raises OSError: it cannot be looked up.
    """
    found = getaddrinfo(host.encode("ascii"), None, type=SOCK_STREAM)
    return frozenset(address_of(str(address[0])) for *_, address in found)


class _Lookup:
    """A name that is being looked up, and those who wait for it."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Deferred[Addresses | None], Wanted]] = []

    def join(self) -> Deferred[Addresses | None]:
        """Return what will be the answer."""
        answer: Deferred[Addresses | None] = Deferred()
        self._waiting.append((answer, still_there.get()))
        return answer

    def is_wanted(self) -> bool:
        """Tell, in any thread, whether somebody still waits."""
        return any(is_there() for _, is_there in tuple(self._waiting))

    def answer(self, found: Addresses | Failure | None) -> None:
        """Give it to all."""
        for answer, _ in self._waiting:
            answer.callback(found)


class HostNames:
    """Looks names up in threads; one that many ask for at a time, once for all of them.

    So a resolver that hangs holds up no more threads than there are names in the file.
    """

    def __init__(
        self, run: Callable[..., Awaitable[Addresses]] = _resolving.run, clock: Any = None
    ) -> None:
        self._run = run
        self._clock = clock
        self._lookups: dict[str, _Lookup] = {}

    def now(self) -> float:
        """Return the time, in seconds, that deadlines are of."""
        return float(self._reactor().seconds())

    def addresses(self, host: str, deadline: float) -> Deferred[Addresses | None]:
        """Return the addresses of a name; None if it cannot be looked up, or not until then.

        :raises TryLater: too many names are waiting.
        """
        seconds = deadline - self.now()
        if seconds <= 0:
            return succeed(None)
        lookup = self._lookups.get(host)
        if lookup is not None:
            answer = lookup.join()
        else:
            lookup = self._lookups[host] = _Lookup()
            answer = lookup.join()
            Deferred.fromCoroutine(self._look_up(host, lookup)).addBoth(self._tell, host)
        return answer.addTimeout(seconds, self._reactor(), lambda *_: None)

    async def _look_up(self, host: str, lookup: _Lookup) -> Addresses | None:
        try:
            return await self._run(addresses_of, host, wanted=lookup.is_wanted)
        except OSError:
            return None

    def _tell(self, found: Addresses | Failure | None, host: str) -> None:
        self._lookups.pop(host).answer(found)

    def _reactor(self) -> Any:
        if self._clock is None:
            from twisted.internet import reactor

            self._clock = reactor
        return self._clock


# The checker


@implementer(ICredentialsChecker, IOfferingChecker)
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
    def at_start(cls, path: str) -> RhostsChecker:
        """Return a checker whose file is in order; the log says whom it trusts.

        :raises RhostsFileError: what is wrong with the file, and what mends it.
        """
        if not path:
            raise RhostsFileError("the rhosts file has no name; give it as --rhosts FILE")
        checker = cls(path)
        checker._tell(checker._file.read())
        return checker

    def offers(self, credentials: type[Interface]) -> bool:
        """Tell whether some entry lets somebody in; a file in disorder does not."""
        try:
            entries = self._read()
        except RhostsFileError:
            return False
        return credentials is IRemoteUserCredentials and any(entry.lets_in for entry in entries)

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
            self.log.warn("no entry of {path} lets anybody in", path=self._path)
            return
        self.log.warn(
            "entries of {path} that let in without a password: {count}; whoever is root on "
            "their hosts, or can pretend to be such a host, reads that mail",
            path=self._path,
            count=count,
        )

    async def _check(self, credentials: Any) -> bytes | tuple[()]:
        if not 0 < credentials.port < RESERVED:
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
        except UsersFileError:
            raise UnauthorizedLogin("no user can be called that") from None
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
