"""The unique-ids of the messages of an mbox file (RFC 1725 section 7).

A message has the value of its X-UIDL, or else the digest that identifies it, in hexadecimal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence


def assign_unique_ids(
    messages: Iterable[tuple[bytes, bytes]], before: Iterable[bytes] = ()
) -> list[bytes]:
    """Return the unique-ids of messages, of each of which the digest and the X-UIDL are given.

    ``before`` are the unique-ids of the messages before them.

    Of several messages with one X-UIDL only the first has it.  Of several with one digest, those
    after the first have a number at its end.
    """
    used = set(before)
    uids = []
    for digest, x_uidl in messages:
        uid = x_uidl
        if not uid or uid in used:
            uid = first = digest.hex().encode("ascii")
            number = 1
            while uid in used:
                uid = b"%b-%d" % (first, number)
                number += 1
        used.add(uid)
        uids.append(uid)
    return uids


def unique_ids_to_write(
    messages: Sequence[tuple[bytes, bytes]], uids: Sequence[bytes]
) -> Mapping[int, bytes]:
    """Return the unique-ids that messages must have as X-UIDL to keep them, by position.

    ``messages`` are as for :func:`assign_unique_ids`, and ``uids`` the unique-ids that they have.
    They differ from what would be assigned if an equal message was removed.
    """
    written: dict[int, bytes] = {}
    while True:
        assigned = assign_unique_ids(
            (digest, written.get(at, x_uidl)) for at, (digest, x_uidl) in enumerate(messages)
        )
        changed = [at for at, uid in enumerate(uids) if assigned[at] != uid and at not in written]
        if not changed:
            return written
        written.update((at, uids[at]) for at in changed)
