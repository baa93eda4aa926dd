"""The file of the messages that are no longer shown: ``--deleted keep``.

It has the digests of their base names, and a digest of all that, so that a damaged file is noticed.
"""

from __future__ import annotations

from collections.abc import Collection
from hashlib import blake2b

from twisted.logger import Logger

from popserv.maildrops.maildir.small_files import read_file, replace_file, unusable
from popserv.maildrops.path_problems import explain_in_directory

_log = Logger()

NAME = b"popserv-hidden"
_UNFINISHED_NAME = b"popserv-hidden.new"

_MAGIC = b"popserv hidden 1\n"
_DIGEST = 16


def digest_of(base_name: bytes) -> bytes:
    """Return what stands for a message in the file."""
    return blake2b(base_name, digest_size=_DIGEST).digest()


def load(maildir_fd: int) -> frozenset[bytes]:
    """Return the digests in the file of an open Maildir.

    A damaged file has none, which is logged: a message that is shown twice is better than one that
    is lost.

    :raises OSError: the file cannot be read, or is not a regular file, or cannot be found although
        the directory lists it.
    """
    text, _ = read_file(NAME, maildir_fd)
    if text is None:
        return frozenset()
    body = text[:-_DIGEST]
    if not _is_whole(text):
        problem = explain_in_directory(unusable(NAME, "the file is damaged"), maildir_fd, NAME)
        _log.warn("deleted messages are shown again: {problem}", problem=problem)
        return frozenset()
    return frozenset(body[at : at + _DIGEST] for at in range(len(_MAGIC), len(body), _DIGEST))


def is_damaged(maildir_fd: int) -> bool:
    """Return whether an open Maildir has a file that is damaged.

    :raises OSError: as :func:`load`.
    """
    text, _ = read_file(NAME, maildir_fd)
    return text is not None and not _is_whole(text)


def _is_whole(text: bytes) -> bool:
    return text.startswith(_MAGIC) and digest_of(text[:-_DIGEST]) == text[-_DIGEST:]


def save(maildir_fd: int, digests: Collection[bytes]) -> None:
    """Replace the file of an open Maildir, whose lock is held, and sync it.

    :raises OSError: the file cannot be replaced, or not be synced: the old one or the new one is
        there.
    """
    body = _MAGIC + b"".join(sorted(digests))
    replace_file(NAME, _UNFINISHED_NAME, body + digest_of(body), maildir_fd)
