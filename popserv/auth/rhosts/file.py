"""The rhosts file: which users of which hosts may open which maildrops by RPOP.

Each line has a host, a remote user and a local user, as in hosts.equiv(5); docs/howto/rhosts.rst
explains them.
"""

from __future__ import annotations

import codecs
import os
import re
import shlex
import stat
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple

from popserv.auth.names import CaseInsensitiveNames, check_name, prepared_name, with_domain
from popserv.auth.rhosts.resolver import parse_address
from popserv.runtime.config_files import FileError, fingerprint
from popserv.runtime.permissions import reason_of

Network = IPv4Network | IPv6Network


class RhostsFileError(FileError):
    """The file cannot be used; the message names the file, the line and the remedy."""


_ANY, _SAME = b"+", b"="


class Entry(NamedTuple):
    """An entry of the file, which allows or denies logins.

    ``line`` is its line number.  ``host`` is a network, or a host name in lower case.
    ``remote_user`` is a user name on that host, or ``+`` for any.  ``local_user`` is the user whose
    maildrop is opened: a name, ``+`` for any, or ``=`` for the name of the remote user.
    ``prepared`` is the local user's name prepared by RFC 8265.
    """

    line: int
    allows: bool
    host: Network | str
    remote_user: bytes
    local_user: bytes
    prepared: bytes

    def maildrop(
        self, remote_user: bytes, name: bytes, prepared: bytes, domain: bytes
    ) -> bytes | None:
        """Return the user whose maildrop is opened, or None if the users do not match.

        ``name`` is the local user's name from the client, and ``prepared`` the same name prepared
        by RFC 8265.  ``domain`` is added to the name of the remote user if that is to be the local
        user's name.  Remote users are compared octet for octet, because only their host knows
        which spellings are the same user.
        """
        if self.remote_user not in (_ANY, remote_user):
            return None
        if self.local_user == _ANY:
            return prepared
        if self.local_user == _SAME:
            same = with_domain(remote_user, domain)
            return same if same in (name, prepared) else None
        return self.local_user if prepared in (self.local_user, self.prepared) else None


Entries = tuple[Entry, ...]


def local_users(entries: Entries) -> CaseInsensitiveNames:
    """Return the names of the local users that entries list."""
    names = {entry.local_user for entry in entries}
    return CaseInsensitiveNames(names - {_ANY, _SAME})


class RhostsFile:
    """The entries of the file, which is read again when it has changed."""

    def __init__(self, path: str) -> None:
        self._path = os.path.abspath(path)
        self._cached: tuple[tuple[int, ...], Entries] = ((), ())

    def read(self) -> Entries:
        """Return the entries that the file has now.

        :raises RhostsFileError: the file does not exist, cannot be read, has an invalid line, or
            is writable by users other than its owner.
        """
        cached_fingerprint, entries = self._cached
        try:
            if cached_fingerprint != fingerprint(os.stat(self._path)):
                _, entries = self._cached = self._load()
        except FileNotFoundError:
            raise RhostsFileError(
                f"{self._path} does not exist; create it, an empty file allows no logins"
            ) from None
        except OSError as error:
            raise RhostsFileError(
                f"cannot read {self._path}: {reason_of(error)}; "
                "it must be a regular file that the server's user can read"
            ) from error
        return entries

    def _load(self) -> tuple[tuple[int, ...], Entries]:
        with open(self._path, "rb", opener=_open_nonblocking) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise RhostsFileError(
                    f"{self._path} is not a regular file; use the path of a regular file"
                )
            if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise RhostsFileError(
                    f"{self._path} is writable by users other than its owner; "
                    f"run: chmod go-w {shlex.quote(self._path)}"
                )
            return fingerprint(found), parse_entries(self._path, file.read())


def _open_nonblocking(path: str, flags: int) -> int:
    # Opening a FIFO would otherwise block until another process writes to it.
    return os.open(path, flags | os.O_NONBLOCK)


_COLUMN = re.compile(rb"[^ \t]+")
_COMMENT = re.compile(rb"(?:^|[ \t])#.*")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")


def parse_entries(path: str, text: bytes) -> Entries:
    """Return the entries of a file with this text, in order; ``path`` is for error messages.

    :raises RhostsFileError: a line is invalid; the message has the number of the first one.
    """
    entries = []
    lines = text.removeprefix(codecs.BOM_UTF8).split(b"\n")
    for number, line in enumerate(lines, 1):
        columns = _COLUMN.findall(_COMMENT.sub(b"", line.removesuffix(b"\r")))
        if columns:
            try:
                entries.append(_parse_entry(number, columns))
            except ValueError as error:
                raise RhostsFileError(f"{path}, line {number}: {error}") from None
    return tuple(entries)


def _parse_entry(number: int, columns: list[bytes]) -> Entry:
    if any(map(_CONTROL.search, columns)):
        raise ValueError("contains a control character; remove it")
    if len(columns) != 3:
        # The line is not quoted: this may be another file, which contains secrets.
        raise ValueError(
            f"must have three columns, but has {len(columns)}: "
            "host, remote user (+ for any), local user (+ for any, = for the same name)"
        )
    host, remote_user, local_user = columns
    allows = not (host.startswith(b"-") or remote_user.startswith(b"-"))
    remote_user = remote_user.removeprefix(b"-")
    _check_user(remote_user, _ANY)
    _check_user(local_user, _ANY, _SAME)
    if local_user not in (_ANY, _SAME):
        check_name(local_user)
    parsed_host = _parse_host(host.removeprefix(b"-").decode("ascii", "replace").lower())
    return Entry(number, allows, parsed_host, remote_user, local_user, prepared_name(local_user))


def _check_user(column: bytes, *signs: bytes) -> None:
    if column not in signs and (not column or column.startswith((b"+", b"-", b"=", b"@"))):
        raise ValueError(
            f"{os.fsdecode(column)!r:.80} is not a valid user; use a name, or "
            + " or ".join(sign.decode() for sign in signs)
        )


# getaddrinfo accepts 10.1 and 0x7f.1 as addresses, so a number is not accepted as a last label.
_LABEL = "[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST_NAME = re.compile(rf"(?:{_LABEL}\.)*(?!(?:[0-9]+|0x[0-9a-f]*)\.?$){_LABEL}\.?")
_MAX_HOST_NAME = 254

_CIDR = re.compile("[0-9a-f.:]+/[0-9]{1,3}")


def _parse_host(column: str) -> Network | str:
    """Return the network or the host name in a first column, which is in lower case.

    :raises ValueError: the column is neither; the message has the remedy.
    """
    if column == "+":
        raise ValueError(
            "+ is not a valid host; to match every host, "
            "write two entries, for 0.0.0.0/0 and for ::/0"
        )
    if column.startswith(("@", "+@")):
        raise ValueError("netgroups are not supported; write an entry for each host")
    if "%" in column:
        raise ValueError("an address must not have a zone; remove the part that starts with %")
    if "/" in column:
        return _parse_network(column)
    with suppress(ValueError):
        return ip_network(parse_address(column))
    if len(column) <= _MAX_HOST_NAME and _HOST_NAME.fullmatch(column):
        return column
    raise ValueError(f"{column!r:.80} is not a valid host; use a name, an address or a network")


def _parse_network(column: str) -> Network:
    if not _CIDR.fullmatch(column):
        raise ValueError(f"{column!r:.80} is not a valid network; use the form 192.0.2.0/24")
    network = ip_network(column, strict=False)
    first, given = network.network_address, ip_address(column.partition("/")[0])
    if given != first:
        raise ValueError(
            f"{column} has host bits set; use {network} for the whole network, "
            f"or {given} for one host"
        )
    mapped = first.ipv4_mapped if isinstance(first, IPv6Address) else None
    return network if mapped is None else IPv4Network((int(mapped), network.prefixlen - 96))
