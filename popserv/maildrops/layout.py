"""The layout of maildrops: each user's path is made from a template, and opened.

A user name never leads out of the root directory: each path component made from it is checked,
and symbolic links below the root are not followed.  The one exception is a link in place of
the maildrop itself that belongs to root or to the user as whom it is accessed.

The module has more than 300 lines, because what makes a path also opens it.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import copy
from typing import TypeVar

from popserv.core.printable import printable
from popserv.maildrops.cached_open import open_cached
from popserv.maildrops.path_problems import UnusablePath, explain_maildrop
from popserv.runtime.closing import close
from popserv.runtime.permissions import this_uid

# To pass through a directory, search permission is enough.
_TRAVERSE = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# Opens a symbolic link itself; elsewhere it may be impossible to read such a link.
_LINK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC if sys.platform == "linux" else None

_VARIABLE = re.compile(rb"%(.?)")
_VALUE = re.compile(rb"[^./\0][^/\0]*")


def create_directory(name: bytes, parent: int) -> bool:
    """Create a directory for its owner alone and sync its parent, unless the name exists.

    Return whether it was created.

    :raises OSError: the directory cannot be created.
    """
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        return False
    os.fsync(parent)
    return True


def create_inheriting(name: bytes, parent: int) -> None:
    """Create a directory as :func:`create_directory`, which belongs to the owner of its parent.

    So the directories that a command of root's creates are those of the server's user.

    :raises OSError: the directory cannot be created.
    """
    if create_directory(name, parent):
        owner = os.fstat(parent)
        # By name it could be a file of others to which the parent's owner has made a hard link.
        directory = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        try:
            with suppress(PermissionError):
                os.fchown(directory, owner.st_uid, owner.st_gid)
        finally:
            close(directory)


def mode_of(path: bytes) -> int:
    """Return the mode of what is at a path, as ``st_mode``; 0 if there is nothing.

    :raises OSError: the path cannot be examined, which does not mean that there is nothing.
    """
    try:
        return os.stat(path).st_mode
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return 0
        raise


def is_directory(path: bytes) -> bool:
    """Return whether there is a directory at a path.

    :raises OSError: as :func:`mode_of`.
    """
    return stat.S_ISDIR(mode_of(path))


L = TypeVar("L", bound="Layout")


class Layout:
    """The paths of all maildrops, given by a template; ``root`` is the directory above them.

    In ``template``, ``%u`` is the user's name, ``%n`` its part before the last ``@``, ``%d`` the
    part after that, and ``%%`` a percent sign.  A template without any of these is a directory
    that holds one maildrop for each user, as ``template/%u``.

    :raises ValueError: the template is invalid; the message says how to correct it.
    """

    def __init__(self, template: str) -> None:
        if template.startswith("~"):
            # As in the configuration of other servers; a shell would have replaced it.
            raise ValueError("~ is not the home of a user here: use a path such as /home/%u")
        path = os.fsencode(os.path.abspath(template))
        if b"%" not in path:
            path += b"/%u"
        parts = path.split(b"/")
        fixed = next(at for at, part in enumerate(parts) if b"%" in part)
        self.root = self._trusted = b"/".join(parts[:fixed]) or b"/"
        used = {name for part in parts[fixed:] for name in _VARIABLE.findall(part)}
        unknown = used - {b"u", b"n", b"d", b"%"}
        if unknown:
            variable = os.fsdecode(b"%" + unknown.pop())
            raise ValueError(f"{variable} is not known: use %u, %n, %d, or %% for a percent sign")
        if not used & {b"u", b"n"}:
            raise ValueError("all users would share one maildrop: use %u or %n")
        self._used = used - {b"%"}
        self._templates = parts[fixed:]
        # Formats for the operator %, which has names in parentheses.
        self._parts = [re.sub(rb"%%|%(.)", _format, part) for part in parts[fixed:]]
        self._path = b"/".join([self.root.rstrip(b"/"), *self._parts])

    def at(self: L, path: bytes) -> L:
        """Return a layout with one maildrop, at an absolute path, whatever the user's name is."""
        other = copy(self)
        root, _, name = path.rpartition(b"/")
        other.root = root or b"/"
        other._trusted = b"/"
        other._used = set()
        other._templates = other._parts = [name.replace(b"%", b"%%")]
        other._path = path.replace(b"%", b"%%")
        return other

    def users(self, exists: Callable[[bytes], bool] = is_directory) -> list[bytes]:
        """Return the names of the users who have a directory in this layout, sorted.

        ``exists`` tells whether a path is a maildrop; the default is that it is a directory.

        With a template that has no domain, the names have none.  Waits for the disk.

        :raises OSError: a directory cannot be listed.
        """
        found = set()
        for values in _existing(self.root, self._templates, {}, exists):
            user = values.get(b"u") or b"@".join(
                values[name] for name in (b"n", b"d") if name in values
            )
            with suppress(ValueError):
                # A variable that is used twice has one value.
                if exists(self.path(user)):
                    found.add(user)
        return sorted(found)

    def path_parts(self, user: bytes) -> list[bytes]:
        """Return the components of the path from the root to the user's maildrop.

        :raises ValueError: the name is not allowed in this template: a part of it that the
            template uses is empty, starts with a dot, or contains a slash or NUL.
        """
        values = self._values(user)
        return [part % values for part in self._parts]

    def _values(self, user: bytes) -> dict[bytes, bytes]:
        local, at, domain = user.rpartition(b"@")
        if not at:
            local, domain = user, b""
        values = {b"u": user, b"n": local, b"d": domain}
        for name in self._used:
            if not _VALUE.fullmatch(values[name]):
                raise ValueError(f'"{printable(user)}" is not a valid name for a maildrop')
        return values

    def path(self, user: bytes) -> bytes:
        """Return the whole path of the user's maildrop.

        :raises ValueError: as :meth:`path_parts`.
        """
        return self._path % self._values(user)

    def below_trusted(self, user: bytes) -> tuple[bytes, list[bytes]]:
        """Return a directory, and the components of the path from there to the user's maildrop.

        The directory is one that no user has a say in: the root, or that of the whole system for a
        maildrop with a path of its own.

        :raises ValueError: as :meth:`path_parts`.
        """
        path = self.path(user)[len(self._trusted) :]
        return self._trusted, path.strip(b"/").split(b"/")

    def open(self, user: bytes) -> int:
        """Open the user's maildrop, a directory, and return the file descriptor.

        :raises ValueError: as :meth:`path_parts`.
        :raises FileNotFoundError: the root exists, the maildrop does not.
        :raises UnusablePath: the maildrop cannot be opened, or is behind a link that is not
            followed.
        """
        parts = self.path_parts(user)
        root = self._open_root(parts)
        try:
            parent = _open_parent(root, parts)
            try:
                return _open_last(parts[-1], parent, _DIRECTORY)
            finally:
                close(parent)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise explain_maildrop(error, self.root, parts) from error

    def has(self, user: bytes) -> bool:
        """Return whether the user has a maildrop, a directory.

        :raises UnusablePath: it cannot be opened.
        """
        try:
            close(self.open(user))
        except (FileNotFoundError, ValueError):
            return False
        return True

    def open_file(self, user: bytes, flags: int) -> tuple[int, int]:
        """Open the user's maildrop, a file; return the descriptors of its directory and of it.

        :raises ValueError: as :meth:`path_parts`.
        :raises FileNotFoundError: the root exists, the maildrop does not.
        :raises OSError: the maildrop cannot be opened, or is behind a link that is not followed.
        """
        parts = self.path_parts(user)
        parent = _open_parent(self._open_root(parts), parts)
        try:
            return parent, _open_last(parts[-1], parent, flags)
        except BaseException:
            close(parent)
            raise

    def _open_root(self, parts: list[bytes]) -> int:
        try:
            return os.open(self.root, _TRAVERSE)
        except OSError as error:
            raise explain_maildrop(error, self.root, parts) from error

    def open_or_create(
        self, user: bytes, create: Callable[[bytes, int], object] = create_directory
    ) -> int:
        """Open the user's maildrop as :meth:`open` does, and create missing directories.

        ``create`` creates one of them, by default so that only this user has access.  The maildrop
        is created empty, without ``new``, ``cur`` and ``tmp``.  The root is not created.

        :raises ValueError: as :meth:`path_parts`.
        :raises OSError: a directory cannot be created or opened, or is behind a link that is
            not followed.
        """
        with suppress(FileNotFoundError):
            return self.open(user)
        *parents, last = parts = self.path_parts(user)
        try:
            parent = self.open_or_create_parent(parents, create)
            try:
                create(last, parent)
            finally:
                close(parent)
            return self.open(user)
        except UnusablePath:
            raise
        except OSError as error:
            raise explain_maildrop(error, self.root, parts) from error

    def open_or_create_parent(
        self, parents: list[bytes], create: Callable[[bytes, int], object]
    ) -> int:
        """Open a directory below the root, whose path from there has these components.

        :raises OSError: as :meth:`open_or_create`.
        """
        parent = os.open(self.root, _DIRECTORY)
        try:
            for part in parents:
                create(part, parent)
                child = os.open(part, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
                close(parent)
                parent = child
        except BaseException:
            close(parent)
            raise
        return parent

    def open_cached(self, user: bytes, way: bytes = b"") -> int:
        """Open the user's maildrop as :meth:`open` does, without waiting for a disk.

        ``way`` is a path that leads from the maildrop to itself, as ``/new/..``: what is on the way
        is there, and another call need not wait for a disk either to find it.

        :raises ValueError: as :meth:`path_parts`.
        :raises OSError: the kernel cannot open it without waiting; call :meth:`open` in a
            thread to learn more.
        """
        path = self.path(user) + way
        # The root is an absolute path, so the directory (-1) is not used.
        try:
            return open_cached(path, _DIRECTORY, -1)
        except OSError:
            # Links are followed on the way to the root only.
            root = open_cached(self.root, _TRAVERSE, -1, follow_symlinks=True)
        try:
            return open_cached(path[len(self.root) :].lstrip(b"/"), _DIRECTORY, root)
        finally:
            close(root)


def _existing(
    directory: bytes,
    templates: list[bytes],
    values: dict[bytes, bytes],
    exists: Callable[[bytes], bool],
) -> Iterator[dict[bytes, bytes]]:
    """Yield the values of the variables in each path below a directory that fits templates."""
    if not templates:
        yield values
        return
    names = [name for name in _VARIABLE.findall(templates[0]) if name != b"%"]
    pieces = (
        b"([^./][^/]*)" if piece in (b"%u", b"%n", b"%d") else re.escape(piece.replace(b"%%", b"%"))
        for piece in re.findall(rb"%.|[^%]+", templates[0], re.DOTALL)
    )
    form = re.compile(b"".join(pieces), re.DOTALL)
    for entry in os.listdir(directory):
        fits = form.fullmatch(entry)
        path = os.path.join(directory, entry)
        if fits and (is_directory if templates[1:] else exists)(path):
            found = dict(zip(names, fits.groups(), strict=True))
            yield from _existing(path, templates[1:], {**values, **found}, exists)


def _format(variable: re.Match[bytes]) -> bytes:
    return b"%%(%b)b" % variable[1] if variable[1] else variable[0]


def _open_parent(root: int, parts: list[bytes]) -> int:
    """Open the directory of the last part, below an open directory, which is closed."""
    parent = root
    for part in parts[:-1]:
        try:
            child = os.open(part, _TRAVERSE | os.O_NOFOLLOW, dir_fd=parent)
        finally:
            close(parent)
        parent = child
    return parent


def _open_last(name: bytes, parent: int, flags: int) -> int:
    try:
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=parent)
    except OSError as error:
        target = _trusted_target(name, parent)
        if target is None:
            raise
        try:
            return os.open(target, flags, dir_fd=parent)
        except FileNotFoundError:
            # The link shows that there is a maildrop, so it is missing rather than empty.
            raise error from None


def _trusted_target(name: bytes, parent: int) -> bytes | None:
    """Return where a link of root's or of this user's leads; None for anything else."""
    if _LINK is None:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        return os.readlink(name, dir_fd=parent) if _is_trusted(status) else None
    # By name it could be another link a moment later, which the owner of the directory has made.
    link = os.open(name, _LINK, dir_fd=parent)
    try:
        return os.readlink(b"", dir_fd=link) if _is_trusted(os.fstat(link)) else None
    finally:
        close(link)


def _is_trusted(status: os.stat_result) -> bool:
    return stat.S_ISLNK(status.st_mode) and status.st_uid in (0, this_uid())
