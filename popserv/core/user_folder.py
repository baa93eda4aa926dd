"""The avatar ID of a folder, for stores that have folders."""

from __future__ import annotations


class UserFolder(bytes):
    """The avatar ID of a client that asks for a folder of its user: ``--folder-delimiter``.

    ``user`` is the user's name, and ``folder`` the name of the folder as the client has sent it.
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
