"""Fingerprints of messages, by which two servers' copies of a message are recognized.

Servers add fields to a message and remove them, and end lines in different ways; everything else
is compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from hashlib import blake2b

_VOLATILE = re.compile(
    # Written by servers and clients into stored messages, and hidden from clients by some.
    rb"(?:status|x-status|x-keywords|x-uid|x-uidl|x-imap|x-imapbase|content-length|lines|"
    rb"x-mozilla-[a-z0-9-]*|return-path|delivered-to|x-original-to|x-envelope-to|envelope-to)"
    rb"[ \t]*:|>?From ",
    re.IGNORECASE,
)
_IDENTIFYING = re.compile(rb"(?:message-id|received)[ \t]*:", re.IGNORECASE)


def header_fields(lines: Iterable[bytes]) -> list[bytes]:
    """Return the fields of a header, unfolded, without those that servers add and remove.

    ``lines`` are those of a message, with or without line ends; the header ends at an empty line.
    """
    # Joined at the end, because a field can have any number of lines.
    fields: list[list[bytes]] = []
    for line in lines:
        text = line.rstrip(b"\r\n")
        if not text:
            break
        if text[:1] in b" \t" and fields:
            fields[-1].append(text.strip())
        else:
            fields.append([text.rstrip()])
    return [field for field in map(b" ".join, fields) if not _VOLATILE.match(field)]


def is_identifying(fields: Iterable[bytes]) -> bool:
    """Return whether a header has a field that no other message has in the same form."""
    return any(map(_IDENTIFYING.match, fields))


def header_fingerprint(fields: Sequence[bytes]) -> bytes:
    """Return the fingerprint of a header."""
    return _digest(fields)


def contents_fingerprint(lines: Sequence[bytes]) -> bytes:
    """Return the fingerprint of a whole message."""
    texts = [line.rstrip(b"\r\n") for line in lines]
    body = texts[texts.index(b"") :] if b"" in texts else []
    while body and not body[-1]:
        body.pop()
    return _digest([*header_fields(texts), b"", *body])


def _digest(lines: Iterable[bytes]) -> bytes:
    return blake2b(b"\n".join(lines), digest_size=20).digest()
