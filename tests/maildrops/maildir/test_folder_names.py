"""Tests of popserv.maildrops.maildir.folder_names."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.mail.imap4 import decoder
from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.maildir.folder_names import directory_of


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
