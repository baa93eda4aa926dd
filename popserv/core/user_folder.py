"""The avatar ID of a folder, for stores that have folders."""

from __future__ import annotations

INBOX = b"INBOX"
"""The folder that is the Maildir itself; its name is case-insensitive (RFC 3501 section 5.1)."""


class UserFolder(bytes):
    """The avatar ID of a client that asks for a folder of its user: ``--folder-delimiter``.

    ``user`` is the user's name, and ``folder`` the name of the folder, of which ``INBOX`` has one
    spelling only.
    As octets it differs from the avatar IDs of all users and other folders, so that whatever is
    kept for a maildrop, such as the time of the last login, is kept for each folder.
    """

    user: bytes
    folder: bytes

    def __new__(cls, user: bytes, folder: bytes) -> UserFolder:
        """Return the avatar ID for a user and a folder."""
        self = super().__new__(cls, b"%b\0%b" % (user, folder))
        self.user = user
        self.folder = folder
        return self


def avatar_id_of(user: bytes, folder: bytes, default_folder: bytes = INBOX) -> bytes:
    """Return the avatar ID for a user and a folder: one for each maildrop, however it is named.

    For ``default_folder`` it is the user's name alone.
    """
    folder = _canonical(folder)
    return user if folder == _canonical(default_folder) else UserFolder(user, folder)


def _canonical(folder: bytes) -> bytes:
    return INBOX if folder.upper() == INBOX else folder
