"""Tests of popserv.maildrops.maildir.folder_names."""

import os

from hypothesis import given
from hypothesis import strategies as st
from twisted.mail.imap4 import decoder
from twisted.trial.unittest import SynchronousTestCase

from popserv.core.user_folder import UserFolder
from popserv.maildrops.maildir.folder_names import FolderLayout, directory_of, owner_of
from popserv.maildrops.path_problems import UnusablePath
from popserv.runtime.permissions import user_name
from tests.maildrops.maildir.harness import watch_descriptors


class DirectoryTests(SynchronousTestCase):
    """The directory of a folder."""

    def test_names(self):
        """The directory is the name after a dot, in modified UTF-7; the inbox has none."""
        for folder, directory in (
            ("Archive", ".Archive"),
            ("Archive.2026", ".Archive.2026"),
            ("R&D 100%", ".R&-D 100%"),
            ("Entwürfe", ".Entw&APw-rfe"),
            ("台北.日本語", ".&U,BTFw-.&ZeVnLIqe-"),
            ("INBOX", ""),
            ("Inbox", ""),
            ("\u0131nbox", ".&ATE-nbox"),
            ("x" * 254, "." + "x" * 254),
        ):
            self.assertEqual(directory_of(folder), directory)

    def test_invalid(self):
        """A name that leads out of the Maildir, or that no folder has, is rejected."""
        for folder, message in (
            ("", "empty level"),
            (".", "empty level"),
            ("..", "empty level"),
            ("a..b", "empty level"),
            ("a.", "empty level"),
            (".a", "empty level"),
            ("a/b", "separate the levels by dots"),
            ("../ann", "separate the levels by dots"),
            ("a\0", "not printable"),
            ("a\n", "not printable"),
            ("\udc80", "not printable"),
            ("x" * 255, "256 octets"),
        ):
            with self.assertRaises(ValueError) as rejected:
                directory_of(folder)
            self.assertIn(message, str(rejected.exception))

    @given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20))
    def test_round_trip(self, folder):
        """Twisted's IMAP server decodes each name that is accepted."""
        try:
            directory = directory_of(folder)
        except ValueError:
            return
        if directory:
            self.assertEqual(decoder(directory[1:].encode("ascii"))[0], folder)


class FolderLayoutTests(SynchronousTestCase):
    """The Maildirs of users, and of their folders."""

    def setUp(self):
        """Make ann's Maildir with some folders, and a link to it."""
        self.root = os.path.abspath(self.mktemp())
        for folder in ("Lists.a", "Sent", "INBOX.a"):
            os.makedirs(f"{self.root}/ann/.{folder}/cur")
        os.makedirs(f"{self.root}/other")
        watch_descriptors(self)

    def assert_opens(self, layout, user, path):
        """Check that the directory at a path is opened."""
        expected = os.stat(self.root + path)
        self.assertTrue(os.path.samestat(os.stat(layout.path(user)), expected))
        fd = layout.open(user)
        self.assertTrue(os.path.samestat(os.fstat(fd), expected))
        os.close(fd)

    def test_folders(self):
        """A client is shown the folder that it names, or else the one of the server."""
        for folder, served in (("", ""), (".Sent", "/.Sent")):
            layout = FolderLayout(self.root, folder)
            for user, path in (
                (b"ann", served),
                (UserFolder(b"ann", b"Lists.a"), "/.Lists.a"),
                (UserFolder(b"ann", b"Sent"), "/.Sent"),
                (UserFolder(b"ann", b"inbox"), ""),
                (UserFolder(b"ann", b"INBOX.a"), "/.INBOX.a"),
            ):
                self.assert_opens(layout, user, f"/ann{path}")
                self.assertEqual(owner_of(user), b"ann")

    def test_links(self):
        """A Maildir may be behind a link of its administrator, a folder may not be."""
        os.symlink(f"{self.root}/ann", f"{self.root}/bob")
        layout = FolderLayout(self.root)
        self.assert_opens(layout, UserFolder(b"bob", b"Sent"), "/ann/.Sent")
        os.symlink("../other", f"{self.root}/ann/.Link")
        user = UserFolder(b"ann", b"Link")
        error = self.assertRaises(UnusablePath, layout.open, user)
        owner = user_name(os.geteuid())
        self.assertEqual(
            str(error), f"{self.root}/ann/.Link is a symbolic link that belongs to {owner}"
        )
        self.assertRaises(OSError, layout.open_cached, user)

    def test_no_directory(self):
        """A file in the place of a folder is not opened; a missing folder is told from it."""
        layout = FolderLayout(self.root)
        os.mknod(f"{self.root}/ann/.File")
        error = self.assertRaises(UnusablePath, layout.open, UserFolder(b"ann", b"File"))
        self.assertEqual(str(error), f"{self.root}/ann/.File is a file, an mbox perhaps")
        os.mkfifo(f"{self.root}/ann/.FIFO")
        self.assertRaises(UnusablePath, layout.open, UserFolder(b"ann", b"FIFO"))
        for user in (UserFolder(b"ann", b"Nowhere"), UserFolder(b"nobody", b"Sent")):
            self.assertRaises(FileNotFoundError, layout.open, user)

    def test_not_utf_8(self):
        """A name that is not in UTF-8 is that of no folder, and not that of the inbox."""
        layout = FolderLayout(self.root)
        for call in (layout.path, layout.open):
            self.assertRaises(ValueError, call, UserFolder(b"ann", b"\xff"))

    @given(st.binary(max_size=20))
    def test_within(self, folder):
        """Whatever a client sends, the path is that of a directory right in the Maildir."""
        layout = FolderLayout(self.root)
        try:
            path = layout.path(UserFolder(b"ann", folder))
        except ValueError:
            return
        maildir = os.fsencode(f"{self.root}/ann")
        parent, name = os.path.split(os.path.normpath(path))
        self.assertTrue(path == maildir or (parent == maildir and name.startswith(b".")))
