"""One Maildir, from its path to its messages."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing

from popserv.core.findings import Finding, error, hint
from popserv.core.printable import one_line, printable
from popserv.maildrops.maildir.diagnosis.directories import OpenMaildir
from popserv.maildrops.maildir.diagnosis.small_files import diagnose_files
from popserv.maildrops.maildir.folder_names import FolderLayout, owner_of
from popserv.maildrops.maildir.folders import Folders
from popserv.maildrops.maildir.unique_ids.format import Source


def diagnose_maildir(
    layout: FolderLayout, user: bytes, source: Source, now: float
) -> Iterator[Finding]:
    """Yield what is wrong with the Maildir of a user; it waits for the disk.

    ``source`` is the file that ``--uidl`` takes unique-ids from, and ``now`` is in seconds since
    1970.
    """
    name = printable(owner_of(user))
    try:
        path = one_line(os.fsdecode(layout.path(user)))
        maildir_fd = layout.open(user)
    except FileNotFoundError:
        yield hint(
            "maildir-missing",
            path,
            f'"{name}" has no Maildir, and sees an empty maildrop',
            "nothing needs to be done if mail will be delivered there; else correct --maildir",
        )
    except ValueError as problem:
        remedy = "give the user another name, or another maildrop with user= or popserv_"
        yield error("maildrop-name", name, str(problem), f"{remedy}maildrop=")
    except OSError as problem:
        remedy = "correct the path, its owner or its mode, or --maildir"
        yield error("maildrop-unusable", path, str(problem), remedy)
    else:
        with closing(Folders(maildir_fd)) as folders:
            yield from OpenMaildir(folders, path, now).findings()
            yield from diagnose_files(maildir_fd, path, source)
