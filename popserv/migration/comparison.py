"""Compares a user's messages on two servers, as clients that leave mail on the server see them."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from hashlib import blake2b
from typing import NamedTuple

from popserv.migration.fingerprints import header_fields, header_fingerprint
from popserv.migration.remote_side import RemoteMaildrop

_MAX_HEADER = 1 << 18
"""The octets of a message in which its header is looked for."""


class Fingerprint(NamedTuple):
    """A message on a server: its unique-id, and digests of its octets and of its header."""

    unique_id: bytes
    octets: bytes
    header: bytes


class Listed(NamedTuple):
    """What a server has shown in a session: its messages in order, and the lines of CAPA.

    ``remarks`` are lines about what was odd.
    """

    messages: Sequence[Fingerprint]
    capabilities: Sequence[bytes]
    remarks: Sequence[str] = ()


class Comparison(NamedTuple):
    """The differences between two servers for one user; numbers are positions, from 0.

    ``pairs`` are the messages that both servers have, by their positions on both;
    ``different`` those of them whose octets differ; ``missing`` the messages that only the old
    server has, and ``added`` those that only the new one has.

    A client that leaves mail on the server, and has fetched all of it from the old one, would fetch
    the messages ``again`` (of the new server), and ``never`` those of ``added`` whose unique-id the
    old server has given to another message.

    ``moved`` is the least number of messages that have another place among those of ``pairs``.

    ``lost`` are the capabilities that the new server does not have.
    """

    pairs: Sequence[tuple[int, int]]
    different: Sequence[tuple[int, int]]
    missing: Sequence[int]
    added: Sequence[int]
    again: Sequence[int]
    never: Sequence[int]
    moved: int
    lost: Sequence[bytes]

    @property
    def is_equal(self) -> bool:
        """Whether there is no difference."""
        return not (any(self[1:6]) or self.moved or self.lost)


def read(
    maildrop: RemoteMaildrop,
    *,
    sizes_only: bool = False,
    report: Callable[[int, int], object] = lambda position, count: None,
) -> Listed:
    """Read all messages of an open session, in bounded memory.

    With ``sizes_only``, of each message the size and the header are read instead of the octets.
    ``report`` is called with the position of each message, and with how many there are.

    :raises POP3ClientError: the server has failed.
    """
    messages = []
    for position, (unique_id, size) in enumerate(
        zip(maildrop.unique_ids, maildrop.sizes, strict=True)
    ):
        report(position, len(maildrop.sizes))
        if sizes_only:
            lines = maildrop.header(position)
            digest = _digest([b"%d\n" % size, *(line + b"\n" for line in lines)])
        else:
            digest, lines = _read_message(maildrop.read(position))
        header = header_fingerprint(header_fields(lines))
        messages.append(Fingerprint(unique_id, digest, header))
    return Listed(messages, maildrop.client.capabilities() or [], maildrop.remarks())


def _read_message(chunks: Iterable[bytes]) -> tuple[bytes, list[bytes]]:
    """Return the digest of a message, and at least the lines of its header."""
    digest = blake2b(digest_size=20)
    start = bytearray()
    for chunk in chunks:
        digest.update(chunk)
        if len(start) < _MAX_HEADER:
            start += chunk
    return digest.digest(), bytes(start).split(b"\n")


def _digest(lines: Iterable[bytes]) -> bytes:
    return blake2b(b"".join(lines), digest_size=20).digest()


def compare(old: Listed, new: Listed) -> Comparison:
    """Compare what two servers have shown."""
    pairs = _pair(old.messages, new.messages)
    # A message may have no unique-id.
    known = {message.unique_id for message in old.messages} - {b""}
    is_known = [message.unique_id in known for message in new.messages]
    taken, partners = ({pair[side] for pair in pairs} for side in (0, 1))
    added = [at for at in range(len(new.messages)) if at not in partners]
    return Comparison(
        pairs,
        [(a, b) for a, b in pairs if old.messages[a].octets != new.messages[b].octets],
        [at for at in range(len(old.messages)) if at not in taken],
        added,
        [at for at in sorted(partners) if not is_known[at]],
        [at for at in added if is_known[at]],
        len(pairs) - _longest_increasing([at_new for _, at_new in pairs]),
        _lost(old.capabilities, new.capabilities),
    )


def _pair(old: Sequence[Fingerprint], new: Sequence[Fingerprint]) -> list[tuple[int, int]]:
    """Return which messages of two servers are the same, in the order of the old server.

    Messages with equal octets are the same, and of the others those with equal headers.  Among
    several, those that also have equal unique-ids are.
    """
    keys: Sequence[Callable[[Fingerprint], Hashable]] = (
        lambda message: (message.octets, message.unique_id),
        lambda message: message.octets,
        lambda message: (message.unique_id, message.header),
        lambda message: message.header,
    )
    pairs: list[tuple[int, int]] = []
    rest = [list(range(len(old))), list(range(len(new)))]
    for key in keys:
        waiting: dict[Hashable, list[int]] = defaultdict(list)
        for at in reversed(rest[1]):
            waiting[key(new[at])].append(at)
        for at in rest[0]:
            if waiting[key(old[at])]:
                pairs.append((at, waiting[key(old[at])].pop()))
        taken = [{pair[side] for pair in pairs} for side in (0, 1)]
        rest = [[at for at in rest[side] if at not in taken[side]] for side in (0, 1)]
    return sorted(pairs)


def _longest_increasing(numbers: Iterable[int]) -> int:
    """Return the length of the longest increasing subsequence."""
    ends: list[int] = []
    for number in numbers:
        at = bisect_left(ends, number)
        ends[at : at + 1] = [number]
    return len(ends)


def _lost(old: Iterable[bytes], new: Iterable[bytes]) -> list[bytes]:
    """Return which capabilities are missing in the new lines of CAPA (RFC 2449)."""
    has = set(_capabilities(new))
    return [each for each in _capabilities(old) if each not in has]


def _capabilities(lines: Iterable[bytes]) -> list[bytes]:
    """Return the capabilities in upper case, each with one of its arguments."""
    found = []
    for line in lines:
        tag, *arguments = line.upper().split() or [b""]
        # A name; dependent on the connection; what Dovecot lists, although its reply is CAPA's.
        if tag in (b"", b"IMPLEMENTATION", b"STLS", b"CAPA"):
            continue
        found += [b"%b %b" % (tag, argument) for argument in arguments] or [tag]
    return list(dict.fromkeys(found))
