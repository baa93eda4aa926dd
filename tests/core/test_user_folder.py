"""Tests of popserv.core.user_folder."""

from twisted.trial.unittest import SynchronousTestCase

from popserv.core.user_folder import UserFolder


class UserFolderTests(SynchronousTestCase):
    """The avatar ID of a folder."""

    def test_distinct(self):
        """It has both names, and differs from that of the user and of each other folder."""
        folder = UserFolder(b"ann", b"Sent")
        self.assertEqual((folder, folder.user, folder.folder), (b"ann\0Sent", b"ann", b"Sent"))
        others = {b"ann", b"annSent", UserFolder(b"ann", b"sent"), UserFolder(b"annS", b"ent")}
        self.assertEqual(len({folder, *others}), 5)
        self.assertIn(UserFolder(b"ann", b"Sent"), {folder})
