"""Where each user's maildrop lies: from a template and a name to an open directory.

A name never leads out of the root: what it becomes is checked part by part, and
no symbolic link on the way is followed, save one at the maildrop itself that the
operator made, which is one owned by root or by the server's own user.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from contextlib import suppress

from popserv.maildrops.maildir.cached_open import open_warm

# Only to pass through: search permission is enough.
_THROUGH = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_INTO = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

_VARIABLE = re.compile(rb"%(.?)")


class Layout:
    """The maildrops below ``root``, placed by a template.

    In ``template`` ``%u`` is the user's name, ``%n`` its part before the last
    ``@``, ``%d`` the part behind it, ``%%`` a percent sign.  Without any of them it
    is a directory that holds one maildrop a user, ``template/%u``.

    :raises ValueError: the template is none; the message says what would be.
    """

    def __init__(self, template: str) -> None:
        path = os.fsencode(os.path.abspath(template))
        if b"%" not in path:
            path += b"/%u"
        parts = path.split(b"/")
        fixed = next(at for at, part in enumerate(parts) if b"%" in part)
        self.root = b"/".join(parts[:fixed]) or b"/"
        self._parts = parts[fixed:]
        used = {name for part in self._parts for name in _VARIABLE.findall(part)}
        unknown = used - {b"u", b"n", b"d", b"%"}
        if unknown:
            wrong = os.fsdecode(b"%" + unknown.pop())
            raise ValueError(f"{wrong} is not known: use %u, %n, %d, or %% for a percent sign")
        if not used & {b"u", b"n"}:
            raise ValueError("all users would share one maildrop: use %u or %n")

    def place(self, user: bytes) -> list[bytes]:
        """Return the path of the user's maildrop below the root, part by part.

        :raises ValueError: the name can have no maildrop here.
        """
        local, at, domain = user.rpartition(b"@")
        if not at:
            local, domain = user, b""
        values = {b"u": user, b"n": local, b"d": domain, b"%": b"%"}

        def value(found: re.Match[bytes]) -> bytes:
            text = values[found[1]]
            if not text or text.startswith(b".") or b"/" in text or b"\0" in text:
                raise ValueError(f"{user!r} is no name for a maildrop")
            return text

        return [_VARIABLE.sub(value, part) for part in self._parts]

    def open(self, user: bytes) -> int:
        """Return an open file descriptor of the user's maildrop, a directory.

        :raises ValueError: as :meth:`place`.
        :raises FileNotFoundError: there is none, though there is a root.
        :raises OSError: it cannot be opened, or a link led out.
        """
        *way, last = self.place(user)
        try:
            here = os.open(self.root, _THROUGH)
        except FileNotFoundError as error:
            raise NotADirectoryError(errno.ENOTDIR, "no such root", self.root) from error
        try:
            for part in way:
                there = os.open(part, _THROUGH | os.O_NOFOLLOW, dir_fd=here)
                os.close(here)
                here = there
            return _open_last(last, here)
        finally:
            os.close(here)

    def make(self, user: bytes) -> int:
        """Return what :meth:`open` does, after making the directories that are missing.

        They are their owner's alone.  Below them nothing is made.

        :raises ValueError: as :meth:`place`.
        :raises OSError: one cannot be made or opened, or a link led out.
        """
        with suppress(FileNotFoundError):
            return self.open(user)
        *way, last = self.place(user)
        here = os.open(self.root, _INTO)
        try:
            for part in way:
                make_directory(part, here)
                there = os.open(part, _INTO | os.O_NOFOLLOW, dir_fd=here)
                os.close(here)
                here = there
            make_directory(last, here)
        finally:
            os.close(here)
        return self.open(user)

    def open_warm(self, user: bytes) -> int:
        """Return what :meth:`open` would, without waiting for a disk.

        :raises ValueError: as :meth:`place`.
        :raises OSError: only :meth:`open` can tell.
        """
        # -1: the root is an absolute path.
        root = open_warm(self.root, _THROUGH, -1, links=True)
        try:
            return open_warm(b"/".join(self.place(user)), _INTO, root)
        finally:
            os.close(root)


def make_directory(name: bytes, parent: int) -> None:
    """Make a directory that lasts, unless there is something of that name.

    :raises OSError: it cannot be made.
    """
    with suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=parent)
        os.fsync(parent)


def _open_last(name: bytes, parent: int) -> int:
    try:
        return os.open(name, _INTO | os.O_NOFOLLOW, dir_fd=parent)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if not stat.S_ISLNK(found.st_mode) or found.st_uid not in (0, os.geteuid()):
            raise
        try:
            return os.open(name, _INTO, dir_fd=parent)
        except FileNotFoundError:
            # The link says that there is a maildrop: this one is lost, not empty.
            raise error from None
