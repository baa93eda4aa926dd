"""RPOP's file, in the manner of hosts.equiv(5): which user of which host opens which maildrop."""

from __future__ import annotations

import codecs
import os
import re
import shlex
import stat
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple

from popserv.auth.files import FileError, fingerprint
from popserv.auth.names import check_name, prepared_name
from popserv.auth.rhosts.resolver import address_of

Network = IPv4Network | IPv6Network


class RhostsFileError(FileError):
    """The file cannot be used; the message says where, and what mends it."""


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
            if stamp != fingerprint(os.stat(self._path)):
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
            return fingerprint(found), parse(self._path, file.read())


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
            except ValueError as error:
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
