"""A message that is being delivered, in a temporary file until a store has written it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from tempfile import SpooledTemporaryFile, gettempdir
from typing import BinaryIO, cast

from popserv.errors import MessageTooLarge
from popserv.messages.framing import Chunk
from popserv.messages.sizes import MAX_MESSAGE
from popserv.runtime.threads import RunInThread

MAX_IN_MEMORY = 1 << 20
"""The octets of a message that are kept in memory."""

_CHUNK = 1 << 20


class _File(SpooledTemporaryFile[bytes]):
    """A file whose contents nobody needs any more once it is closed, so that this cannot fail."""

    def close(self) -> None:
        with suppress(OSError):
            super().close()

    def __exit__(self, *_error: object) -> None:
        self.close()


def spool_file() -> BinaryIO:
    """Return an empty file, on disk only if it becomes large; the caller closes it."""
    return cast(BinaryIO, _File(max_size=MAX_IN_MEMORY))


def discard(file: BinaryIO) -> None:
    """Close a temporary file that may not have been written."""
    # This writes what a failed write has left in the buffer, and closes the file all the same.
    with suppress(OSError):
        file.close()


async def spool(body: Iterable[Chunk], run: RunInThread) -> BinaryIO:
    """Return a file with the octets of a body, at its start; the caller closes it.

    Large messages are written to the directory for temporary files, by ``run``.

    :raises OSError: there is no room for the message; the error has the directory.
    :raises Exception: as the body.
    """
    file = spool_file()
    octets = 0
    try:
        for chunk in body:
            text = chunk if isinstance(chunk, bytes) else await chunk
            octets += len(text)
            if octets <= MAX_IN_MEMORY:
                file.write(text)
            else:
                await run(_write, file, text)
        file.seek(0)
    except BaseException:
        discard(file)
        raise
    finally:
        close = getattr(body, "close", None)
        if close is not None:
            close()
    return file


def _write(file: BinaryIO, text: bytes) -> None:
    try:
        file.write(text)
        # seek() would do so, in the reactor's thread, and without the directory in its error.
        file.flush()
    except OSError as error:
        raise OSError(error.errno, error.strerror, gettempdir()) from error


def check_length(message: BinaryIO, others: int = 0) -> None:
    """Check whether sessions would read a file of a message and ``others`` octets.

    The message is at its start then.

    :raises MessageTooLarge: they would not.
    """
    if message.seek(0, os.SEEK_END) + others > MAX_MESSAGE:
        raise MessageTooLarge(f"it has more than {MAX_MESSAGE} octets")
    message.seek(0)


def write_file(body: BinaryIO, fd: int, delivered: float) -> int:
    """Write a body to an open file, which gets a time of modification, and sync it.

    The time remains that of now if ``delivered`` is 0.  Return the octets.

    :raises OSError: it cannot be written.
    """
    octets = 0
    while chunk := body.read(_CHUNK):
        octets += len(chunk)
        rest = memoryview(chunk)
        while rest:
            rest = rest[os.write(fd, rest) :]
    if delivered > 0:
        os.utime(fd, (delivered, delivered))
    os.fsync(fd)
    return octets
