"""The directories of a Maildir: their permissions, and what in them is no message."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress

from popserv.core.findings import Finding, error, hint, some_names, warning
from popserv.core.printable import one_line
from popserv.maildrops.maildir.diagnosis.messages import Messages
from popserv.maildrops.maildir.folders import FOLDER_NAMES, Folders
from popserv.maildrops.path_problems import explain_in_directory
from popserv.runtime.closing import close
from popserv.runtime.permissions import can_access, this_user, user_name

STALE_TMP = 36 * 3600
"""Seconds after which a file in tmp is no delivery any more (maildir(5))."""

_TMP = "tmp"
_MESSAGE = re.compile(r"[0-9]{9,}\.")
_NUMBER = re.compile(r"[1-9][0-9]*")


class OpenMaildir:
    """The checks of the directories and messages of an open Maildir."""

    def __init__(self, folders: Folders, path: str, now: float) -> None:
        self._folders = folders
        self._fd = folders.maildir_fd
        self._path = path
        self._now = now

    def findings(self) -> Iterator[Finding]:
        """Yield what is wrong; it waits for the disk."""
        present = {name: self._status(name) for name in (*FOLDER_NAMES, _TMP.encode())}
        if not any(present[name] for name in FOLDER_NAMES):
            yield from self._other_contents()
            return
        missing = [name.decode() for name, status in present.items() if status is None]
        if missing:
            yield warning(
                "maildir-incomplete",
                self._path,
                f"it has no {' and no '.join(missing)}",
                "create it, so that other programs can deliver mail",
            )
        yield from self._permissions(present)
        yield from self._outside()
        try:
            scan = self._folders.scan()
        except OSError as problem:
            explained = explain_in_directory(problem, self._fd, problem.filename)
            remedy = "correct its owner or its mode, or remove what is there instead"
            yield error("maildrop-unusable", self._path, str(explained), remedy)
            return
        yield from self._ignored()
        messages = Messages(self._now)
        for base_name, (location, _) in scan.files.items():
            folder = location[0]
            messages.examine(base_name, base_name + location[1:], self._folders.descriptor(folder))
        if scan.is_settled:
            for base_name in scan.duplicates:
                messages.note("message-duplicate", base_name)
        yield from messages.findings(self._path)

    def _status(self, name: bytes) -> os.stat_result | None:
        try:
            return os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except OSError:
            return None

    def _permissions(self, present: dict[bytes, os.stat_result | None]) -> Iterator[Finding]:
        own = os.fstat(self._fd)
        if own.st_mode & stat.S_IRWXO:
            yield warning(
                "maildir-exposed",
                self._path,
                f"its mode {stat.S_IMODE(own.st_mode):04o} lets other users into the mail",
                f"run: chmod o= {self._path}",
            )
        owner = user_name(own.st_uid)
        for name, status in present.items():
            if status is not None and status.st_uid != own.st_uid:
                yield warning(
                    "maildir-owner",
                    f"{self._path}/{name.decode()}",
                    f"it belongs to {user_name(status.st_uid)}, and the Maildir to {owner}",
                    f"run: chown -R {owner} {self._path}",
                )
        for name in FOLDER_NAMES:
            if present[name] and not can_access(name, os.W_OK | os.X_OK, dir_fd=self._fd):
                yield error(
                    "maildir-not-writable",
                    f"{self._path}/{name.decode()}",
                    f"{this_user()} cannot write there, so that no message can be removed",
                    f"let {this_user()} own it, or give its group permission to write",
                )
        if not can_access(".", os.W_OK, dir_fd=self._fd):
            yield hint(
                "maildir-not-writable",
                self._path,
                f"{this_user()} cannot write there, so that the sizes of messages are counted "
                "again after each restart",
                f"let {this_user()} own it, or give its group permission to write",
            )

    def _other_contents(self) -> Iterator[Finding]:
        """Yield what a directory is that has neither new nor cur."""
        names = os.listdir(self._fd)
        inner = next((name for name in names if self._status(os.fsencode(f"{name}/cur"))), None)
        if not names:
            yield hint(
                "maildir-empty",
                self._path,
                "it is an empty directory, and no Maildir yet",
                "nothing needs to be done if mail will be delivered there",
            )
            return
        what, remedy = "it has neither new nor cur", "correct --maildir"
        if inner is not None:
            what += f", but the directory {one_line(inner)} in it has"
            remedy = f"add /{one_line(inner)} to the path: --maildir '.../%u/{one_line(inner)}'"
        elif any(map(_NUMBER.fullmatch, names)):
            what += ", but files whose names are numbers, like an MH folder"
            remedy = "use --store mh:PATH"
        yield error("not-a-maildir", self._path, what, remedy)

    def _outside(self) -> Iterator[Finding]:
        """Yield what is in tmp for long, and messages that are in no folder."""
        with os.scandir(self._fd) as entries:
            outside = [entry.name for entry in entries if _MESSAGE.match(entry.name)]
        if outside:
            yield warning(
                "maildir-outside",
                self._path,
                f"{len(outside)} files beside new and cur have names like messages, and are not "
                f"shown: {_some(outside)}",
                "move them to new",
            )
        old = []
        with suppress(OSError):
            tmp = os.open(_TMP, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=self._fd)
            try:
                with os.scandir(tmp) as entries:
                    old = [
                        entry.name
                        for entry in entries
                        if self._now - entry.stat(follow_symlinks=False).st_mtime > STALE_TMP
                    ]
            finally:
                close(tmp)
        if old:
            yield hint(
                "maildir-tmp",
                f"{self._path}/{_TMP}",
                f"{len(old)} deliveries were interrupted: {_some(old)}",
                "remove the files",
            )

    def _ignored(self) -> Iterator[Finding]:
        """Yield what of new and cur sessions do not show."""
        for number, name in enumerate(FOLDER_NAMES):
            with suppress(FileNotFoundError), os.scandir(self._folders.descriptor(number)) as found:
                ignored = [
                    entry.name
                    for entry in found
                    if entry.name[0] == "." or not entry.is_file(follow_symlinks=False)
                ]
                if ignored:
                    yield hint(
                        "maildir-ignored",
                        f"{self._path}/{name.decode()}",
                        f"{len(ignored)} entries are no messages, because they are no regular "
                        f"files or begin with a dot: {_some(ignored)}",
                        "move them away if nobody needs them there",
                    )


def _some(names: list[str]) -> str:
    return some_names(map(one_line, names), len(names))
