"""Tests of popserv.maildrops.maildir.diagnosis.maildir."""

import os

from popserv.core.user_folder import UserFolder
from tests.doctor.harness import unprivileged
from tests.maildrops.maildir.diagnosis.harness import DiagnosisCase


class MaildirTests(DiagnosisCase):
    """The path of a Maildir."""

    def test_right(self):
        """A Maildir with a message has nothing wrong with it, nor has an empty one."""
        self.assertEqual(self.codes(), [])
        next((self.maildir / "new").iterdir()).unlink()
        self.assertEqual(self.codes(), [])

    def test_missing(self):
        """A user without a Maildir is hinted at."""
        [finding] = self.findings(b"bob")
        self.assertEqual(finding.code, "maildir-missing")
        self.assertEqual(finding.where, str(self.root / "bob"))
        self.assertIn('"bob" has no Maildir', finding.what)

    def test_folder(self):
        """A folder of the Maildir is examined in its place."""
        folder = self.maildir / ".Sent"
        for name in ("new", "cur", "tmp"):
            (folder / name).mkdir(parents=True)
        folder.chmod(0o701)
        [finding] = self.findings(UserFolder(b"ann", b"Sent"))
        self.assertEqual((finding.code, finding.where), ("maildir-exposed", str(folder)))

    def test_name(self):
        """A name that cannot be that of a maildrop is an error."""
        self.assertEqual(self.codes(b".ann"), ["e maildrop-name"])

    def test_mbox(self):
        """A file where a Maildir is meant is an error, as is a link that is not followed."""
        (self.root / "bob").write_text("From bob\n")
        [finding] = self.findings(b"bob")
        self.assertEqual(finding.code, "maildrop-unusable")
        self.assertIn("an mbox perhaps", finding.what)
        os.symlink(self.maildir, self.root / "eve")
        self.assertEqual(self.codes(b"eve"), [])

    def test_permissions(self):
        """A Maildir that the server's user cannot enter is an error; one that it owns is not."""
        if os.geteuid() == 0:
            with unprivileged():
                [finding] = self.findings()
            self.assertEqual(finding.code, "maildrop-unusable")
            self.assertIn("nobody", finding.what)
        self.assertEqual(self.codes(), [])
