"""The log file of a server, which programs such as logrotate may rename or truncate."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import IO, Any

from twisted.logger import ILogObserver

from popserv.logs.text_lines import line_observer

_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY


class LogFile:
    """A file to which ``observer`` appends the events of the log.

    Each write goes to the end that the file has at that time, so that the file may be truncated.

    :param path: the file, which is created if it does not exist.
    :param chroot: the directory that becomes the root directory before the first
        :meth:`reopen`, if any.
    :param make_observer: makes the observer that writes to the file.
    :raises OSError: the file cannot be opened.
    """

    observer: ILogObserver

    def __init__(
        self,
        path: str,
        chroot: str | None = None,
        make_observer: Callable[[IO[Any]], ILogObserver] = line_observer,
    ) -> None:
        self.path = os.path.abspath(path)
        self._path_in_chroot: str | None = self.path
        if chroot is not None:
            inside = os.path.relpath(os.path.realpath(self.path), os.path.realpath(chroot))
            self._path_in_chroot = None if inside.startswith("..") else os.path.join("/", inside)
        # Without a buffer, because a signal handler may log while an event is being written.
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115
        self.observer = make_observer(self._file)

    def reopen(self) -> None:
        """Continue in the file that has the path now, unless it is the same.

        A file that has to be created gets the permissions of the previous one.

        :raises OSError: it cannot be opened, or is outside of the ``chroot`` directory; logging
            continues in the previous file.
        """
        if self._path_in_chroot is None:
            raise FileNotFoundError(errno.ENOENT, "it is outside of the directory of --chroot")
        descriptor = self._file.fileno()
        previous = os.fstat(descriptor)
        mode = None
        try:
            if os.path.samestat(os.stat(self._path_in_chroot), previous):
                return
            new = os.open(self._path_in_chroot, _FLAGS)
        except FileNotFoundError:
            mode = stat.S_IMODE(previous.st_mode)
            new = os.open(self._path_in_chroot, _FLAGS | os.O_CREAT, mode)
        try:
            if mode is not None:
                # The umask of a daemon has removed permissions.
                os.fchmod(new, mode)
            # Replaces the file in one step, so that no thread finds it closed.
            os.dup2(new, descriptor, inheritable=False)
        finally:
            os.close(new)
