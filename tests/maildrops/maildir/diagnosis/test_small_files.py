"""Tests of popserv.maildrops.maildir.diagnosis.small_files."""

import os

from popserv.maildrops.maildir import hidden_file
from popserv.maildrops.maildir.unique_ids import pinned_file
from popserv.maildrops.maildir.unique_ids.dovecot_uidlist import STALE_AGE
from popserv.maildrops.maildir.unique_ids.format import Source
from tests.maildrops.maildir.diagnosis.harness import DiagnosisCase, age

UIDLIST = b"3 V1 N2 G0\n1 :1600000000.M1P1.host\n"
SIZELIST = b"/2 2 1\n1600000000.M1P1.host 12 1:1\n"


class SmallFilesTests(DiagnosisCase):
    """The small files of a Maildir."""

    def write(self, name, octets):
        """Write one; return its path."""
        path = self.maildir / name
        path.write_bytes(octets)
        return path

    def test_other_servers(self):
        """Unique-ids of another server are a warning, unless they are used or pinned."""
        for name, octets, code, source in (
            ("dovecot-uidlist", UIDLIST, "w other-unique-ids", Source.DOVECOT),
            ("courierpop3dsizelist", SIZELIST, "w other-unique-ids", Source.COURIER),
        ):
            path = self.write(name, octets)
            self.source = Source.NONE
            self.assertEqual(self.codes(), [code])
            self.source = source
            self.assertEqual(self.codes(), [])
            self.source = Source.NONE
            pins = self.write("popserv-uidl", pinned_file.encode(pinned_file.Pins({b"1.x": b"u"})))
            self.assertEqual(self.codes(), [])
            pins.unlink()
            path.unlink()

    def test_damaged(self):
        """A damaged file of unique-ids is an error, if it is used."""
        self.write("popserv-uidl", b"x")
        [finding] = self.findings()
        self.assertEqual(finding.code, "unique-id-file")
        self.assertIn("it does not start with popserv-uidl 1, so that the", finding.what)
        self.assertIn("restore it from a backup", finding.remedy)
        (self.maildir / "popserv-uidl").unlink()
        for name, source in (
            ("dovecot-uidlist", Source.DOVECOT),
            ("courierpop3dsizelist", Source.COURIER),
        ):
            self.source = source
            path = self.write(name, b"x")
            self.assertEqual(self.codes(), ["e unique-id-file"])
            path.unlink()

    def test_special(self):
        """What is no regular file is an error, with a remedy."""
        os.mkfifo(self.maildir / "popserv-uidl")
        [finding] = self.findings()
        self.assertIn("make it a regular file", finding.remedy)
        (self.maildir / "popserv-uidl").unlink()
        os.mkfifo(self.maildir / "popserv-hidden")
        self.assertEqual(self.codes(), ["e unique-id-file"])

    def test_dovecot_lock(self):
        """A lock of Dovecot's is an error once it is stale."""
        self.source = Source.DOVECOT
        self.write("dovecot-uidlist", UIDLIST)
        path = self.write("dovecot-uidlist.lock", b"")
        age(path, STALE_AGE - 20)
        self.assertEqual(self.codes(), [])
        age(path, STALE_AGE + 1)
        self.assertEqual(self.codes(), ["e dovecot-lock"])

    def test_size_file(self):
        """A size file that cannot be used is a hint, because it is replaced."""
        self.write("popserv-sizes", b"x")
        self.assertEqual(self.codes(), ["h size-file"])

    def test_hidden_file(self):
        """A damaged file of hidden messages is a warning; a whole one is not."""
        fd = os.open(self.maildir, os.O_RDONLY)
        self.addCleanup(os.close, fd)
        hidden_file.save(fd, [hidden_file.digest_of(b"x")])
        self.assertEqual(self.codes(), [])
        self.write("popserv-hidden", b"x")
        self.assertEqual(self.codes(), ["w hidden-file"])
