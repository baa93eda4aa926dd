"""Tests of popserv.core.user_folder."""

from twisted.trial.unittest import SynchronousTestCase

from popserv.core.user_folder import UserFolder, avatar_id_of


class UserFolderTests(SynchronousTestCase):
    """The avatar ID of a folder."""

    def test_distinct(self):
        """It has both names, and differs from that of the user and of each other folder."""
        folder = UserFolder(b"ann", b"Sent")
        self.assertEqual((folder, folder.user, folder.folder), (b"ann\0Sent", b"ann", b"Sent"))
        others = {b"ann", b"annSent", UserFolder(b"ann", b"sent"), UserFolder(b"annS", b"ent")}
        self.assertEqual(len({folder, *others}), 5)
        self.assertIn(UserFolder(b"ann", b"Sent"), {folder})

    def test_one_maildrop(self):
        """Each folder has one avatar ID, however it is named; the usual one has the user's."""
        inbox = UserFolder(b"ann", b"INBOX")
        for folder, usual, expected in (
            (b"INBOX", b"INBOX", b"ann"),
            (b"inBox", b"INBOX", b"ann"),
            (b"Sent", b"INBOX", UserFolder(b"ann", b"Sent")),
            (b"Sent", b"Sent", b"ann"),
            (b"sent", b"Sent", UserFolder(b"ann", b"sent")),
            (b"inbox", b"Sent", inbox),
            (b"INBOX", b"Sent", inbox),
            (b"INBOX", b"inbox", b"ann"),
            (b"Inbox", b"inBOX", b"ann"),
            (b"Sent", b"inbox", UserFolder(b"ann", b"Sent")),
        ):
            found = avatar_id_of(b"ann", folder, usual)
            self.assertEqual((found, type(found)), (expected, type(expected)))
        self.assertEqual(avatar_id_of(b"ann", b"Inbox"), b"ann")
