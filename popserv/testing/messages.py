"""Messages for tests, and an oracle for their octets."""

from __future__ import annotations

from collections.abc import Iterable

from popserv.messages.framing import Chunk

SAMPLE_MESSAGES = [
    b"Subject: plain\n\nbody\n",
    b"Subject: crlf\r\n\r\nbody\r\n",
    b".first octet a dot\n\n.\n..\n.x\n",
    b"Subject: no end\n\nlast line",
    b"Subject: mixed\r\n\nlone \r here\n\r\n\r",
    b"Subject: 8-bit \xe9\n\n\x00\xff\n",
    b"Subject: UTF-8 \xc3\xa9\n\n\xc3\xa9\n",
    b"header alone\n",
    b"\n\nheaderless\n",
    b"",
    b"Subject: long\n\n" + b"x" * 200_000 + b"\n" + b".\n" * 70_000,
]
"""Messages that a store may contain; together they exercise every rule of the wire form."""


async def read_all(body: Iterable[Chunk]) -> bytes:
    """Return the octets of a message that a mailbox has opened, and close it."""
    chunks = [chunk if isinstance(chunk, bytes) else await chunk for chunk in body]
    close = getattr(body, "close", None)
    if close is not None:
        close()
    return b"".join(chunks)


def naive_octets(message: bytes) -> int:
    """Return the octets of a message's wire form, counted in the simplest way, as an oracle."""
    lines = message.replace(b"\r\n", b"\n").split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    return sum(len(line) + 2 for line in lines)
