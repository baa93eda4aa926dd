"""The folders of Maildir++: their directories are in the Maildir of the inbox.

A folder ``Archive.2026`` is the directory ``.Archive.2026``; the dot separates the levels.  Octets
that are not printable ASCII are in modified UTF-7 (RFC 3501 section 5.1.3), as IMAP servers write
them.

http://www.courier-mta.org/imap/README.maildirquota.html
"""

from __future__ import annotations

import os
import re
from base64 import b64encode

from popserv.core.user_folder import UserFolder
from popserv.maildrops.layout import Layout
from popserv.maildrops.path_problems import explain_in_directory
from popserv.runtime.closing import close

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_OCTETS = 255
_ENCODED = re.compile(r"&|[^\x20-\x7e]+")


def directory_of(folder: str) -> str:
    """Return the name of a folder's directory in the Maildir; empty for INBOX.

    :raises ValueError: the name is invalid; the message says how to correct it.
    """
    if folder.isascii() and folder.upper() == "INBOX":
        return ""
    if "/" in folder:
        raise ValueError(f"{folder!r} contains a slash; separate the levels by dots")
    if not all(folder.split(".")):
        raise ValueError(f"{folder!r} has an empty level; give a name such as Archive.2026")
    if not folder.isprintable():
        raise ValueError(f"{folder!r} contains a character that is not printable; remove it")
    name = "." + _ENCODED.sub(_encode, folder)
    if len(name) > _MAX_OCTETS:
        raise ValueError(f"the name of its directory has {len(name)} octets; the limit is 255")
    return name


def _encode(text: re.Match[str]) -> str:
    if text[0] == "&":
        return "&-"
    encoded = b64encode(text[0].encode("utf-16-be")).decode("ascii")
    return "&" + encoded.rstrip("=").replace("/", ",") + "-"


class FolderLayout(Layout):
    """The Maildirs of users, and the directories of folders in them.

    ``directory`` is that of the folder which a user's name stands for, empty for the inbox; a
    :class:`~popserv.core.user_folder.UserFolder` names another folder.
    """

    def __init__(self, template: str, directory: str = "") -> None:
        super().__init__(template)
        self._directory = os.fsencode(directory)

    def directory(self, user: bytes) -> bytes:
        """Return the directory of the folder that is served; empty for the inbox.

        :raises ValueError: it has no valid name.
        """
        if not isinstance(user, UserFolder):
            return self._directory
        try:
            return os.fsencode(directory_of(user.folder.decode()))
        except UnicodeDecodeError as error:
            raise ValueError("the name of the folder is not in UTF-8") from error

    def path(self, user: bytes) -> bytes:
        """See Layout."""
        directory = self.directory(user)
        maildir = super().path(owner_of(user))
        return os.path.join(maildir, directory) if directory else maildir

    def open(self, user: bytes) -> int:
        """See Layout; a link in place of a folder is not followed, because users can make it."""
        directory = self.directory(user)
        maildir = super().open(owner_of(user))
        if not directory:
            return maildir
        try:
            return os.open(directory, _DIRECTORY, dir_fd=maildir)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise explain_in_directory(error, maildir, directory) from error
        finally:
            close(maildir)


def owner_of(user: bytes) -> bytes:
    """Return the name of the user whose maildrop or folder it is."""
    return user.user if isinstance(user, UserFolder) else user
