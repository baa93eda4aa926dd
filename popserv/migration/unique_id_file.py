"""The file of ``popserv uidl export``, which ``popserv uidl import`` reads: unique-ids of messages.

Each line has a user name, a unique-id and a base name, separated by tabs.  In the names, octets
outside 0x21 to 0x7E and percent signs are encoded as in URLs.  Empty lines, and lines that start
with ``#``, are ignored.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from popserv.maildrops.maildir.unique_ids.pinned_file import is_base_name, quote, unquote


def encode_line(user: bytes, unique_id: bytes, base_name: bytes) -> bytes:
    """Return a line, without a line end."""
    # A line that starts with # would be a comment.
    name = quote(user).replace(b"#", b"%23")
    return b"\t".join((name, unique_id, quote(base_name)))


def decode(lines: Iterable[bytes]) -> dict[bytes, dict[bytes, bytes]]:
    """Return the unique-ids by base name, for each user.

    :raises ValueError: a line is invalid; the message has its number.
    """
    users: dict[bytes, dict[bytes, bytes]] = defaultdict(dict)
    for number, line in enumerate(lines, 1):
        words = line.rstrip(b"\r\n").split(b"\t")
        if words == [b""] or line.startswith(b"#"):
            continue
        user, base_name = unquote(words[0]), unquote(words[-1])
        if len(words) != 3 or not (user and is_base_name(base_name)):
            raise ValueError(
                f"line {number}: it is not a user name, a unique-id and a base name, "
                "separated by tabs"
            )
        if base_name in users[user]:
            raise ValueError(f"line {number}: this message has a line already")
        users[user][base_name] = words[1]
    return dict(users)
