"""The file of the messages that are no longer shown: ``--deleted keep``.

It has the digests of their base names, and a digest of all that, so that a damaged file is noticed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from hashlib import blake2b

NAME = b"popserv-hidden"
_UNFINISHED_NAME = b"popserv-hidden.new"

_MAGIC = b"popserv hidden 1\n"
_DIGEST = 16
_MAX_OCTETS = 1 << 28


def digest_of(base_name: bytes) -> bytes:
    """Return what stands for a message in the file."""
    return blake2b(base_name, digest_size=_DIGEST).digest()


def load(maildir_fd: int) -> frozenset[bytes]:
    """Return the digests in the file of an open Maildir; none without a valid file.

    :raises OSError: the file cannot be read.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(NAME, flags, dir_fd=maildir_fd)
    except FileNotFoundError:
        return frozenset()
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_OCTETS:
            return frozenset()
        text = file.read(_MAX_OCTETS)
    body = text[:-_DIGEST]
    if not body.startswith(_MAGIC) or digest_of(body) != text[-_DIGEST:]:
        return frozenset()
    return frozenset(body[at : at + _DIGEST] for at in range(len(_MAGIC), len(body), _DIGEST))


def save(maildir_fd: int, digests: Iterable[bytes]) -> None:
    """Replace the file of an open Maildir, whose lock is held, and sync it.

    :raises OSError: the file cannot be written; the old one is there.
    """
    body = _MAGIC + b"".join(sorted(digests))
    with suppress(FileNotFoundError):
        os.unlink(_UNFINISHED_NAME, dir_fd=maildir_fd)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(_UNFINISHED_NAME, flags, 0o600, dir_fd=maildir_fd), "wb") as file:
            status = os.fstat(maildir_fd)
            with suppress(PermissionError):
                os.fchown(file.fileno(), status.st_uid, status.st_gid)
            file.write(body + digest_of(body))
            file.flush()
            os.fsync(file.fileno())
        os.rename(_UNFINISHED_NAME, NAME, src_dir_fd=maildir_fd, dst_dir_fd=maildir_fd)
    except OSError:
        with suppress(OSError):
            os.unlink(_UNFINISHED_NAME, dir_fd=maildir_fd)
        raise
    os.fsync(maildir_fd)
