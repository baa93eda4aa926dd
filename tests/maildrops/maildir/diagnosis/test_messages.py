"""Tests of popserv.maildrops.maildir.diagnosis.messages."""

import gzip
import os

from popserv.core.findings import MAX_NAMES
from popserv.maildrops.maildir.diagnosis import messages
from tests.doctor.harness import unprivileged
from tests.maildrops.maildir.diagnosis.harness import NOW, DiagnosisCase
from tests.maildrops.maildir.harness import failing


class MessagesTests(DiagnosisCase):
    """The files of messages."""

    def test_unreadable(self):
        """A message without permission to read it is an error; with it, it is none."""
        self.maildir.chmod(0o707)
        for name in ("new", "cur"):
            (self.maildir / name).chmod(0o777)
        path = self.deliver("1600000001.x", folder="cur")
        path.chmod(0)
        with unprivileged():
            self.assertIn("e message-unreadable", self.codes())
        path.chmod(0o644)
        with unprivileged():
            self.assertNotIn("e message-unreadable", self.codes())

    def test_damaged(self):
        """A message that the disk does not read is an error, with the reason."""
        with failing(os, "read", OSError(5, "Input/output error")):
            [finding] = self.findings()
        self.assertEqual(finding.code, "message-unreadable")
        self.assertIn("(Input/output error): 1600000000.M1P1.host", finding.what)

    def test_vanished(self):
        """A message that another program removes meanwhile is none."""
        with failing(
            os, "open", FileNotFoundError(2, "x"), lambda name, *_: b"M1" in os.fsencode(name)
        ):
            self.assertEqual(self.codes(), [])

    def test_empty(self):
        """An empty file is a warning, in new or, with flags, in cur."""
        self.deliver("1600000001.x", b"")
        self.assertEqual(self.codes(), ["w message-empty"])
        self.deliver("1600000002.x:2,S", b"", folder="cur")
        [finding] = self.findings()
        self.assertTrue(finding.what.endswith(": 1600000001.x, 1600000002.x"), finding)

    def test_compressed(self):
        """A message in a format that cannot be decompressed is an error; gzip can."""
        self.deliver("1600000001.x", gzip.compress(b"Subject: x\n\n"))
        self.assertEqual(self.codes(), [])
        self.deliver("1600000002.x", b"Dovecot-LZ4\r\x2a\x9b\xc5")
        [finding] = self.findings()
        self.assertEqual(finding.code, "message-compressed")
        self.assertIn("does not support Dovecot's LZ4): 1600000002.x", finding.what)

    def test_future(self):
        """A time more than a day ahead is a warning, in the name or of the file."""
        day = 24 * 60 * 60
        self.deliver(f"{NOW + day}.x")
        path = self.deliver("1600000001.x")
        os.utime(path, (NOW + day, NOW + day))
        self.assertEqual(self.codes(), [])
        os.utime(path, (NOW + day + 1, NOW + day + 1))
        self.deliver(f"{NOW + day + 1}.x")
        [finding] = self.findings()
        self.assertEqual(finding.code, "message-future")
        self.assertIn("messages: 2, ", finding.what)

    def test_duplicate(self):
        """A base name of two files is a warning, unless the folders are changing."""
        self.deliver("1600000000.M1P1.host:2,S", folder="cur")
        # The clock of files may be behind by a tick.
        for name in ("new", "cur"):
            os.utime(self.maildir / name, (NOW, NOW))
        self.wait_for_settled()
        self.assertEqual(self.codes(), ["w message-duplicate"])

    def test_changing(self):
        """A file that is renamed meanwhile is not one of two."""
        self.deliver("1600000000.M1P1.host:2,S", folder="cur")
        self.patch(messages.Messages, "note", lambda *_: self.fail("a message is noted"))
        from popserv.maildrops.maildir import folders

        self.patch(folders, "CLOCK_TICK", 10**18)
        self.assertEqual(self.codes(), [])

    def wait_for_settled(self):
        """Let the changes of the folders be older than a tick of the clock."""
        from popserv.maildrops.maildir import folders

        self.patch(folders, "CLOCK_TICK", -(10**18))

    def test_names(self):
        """Names that are no unique-ids, or have no time, are hints."""
        self.deliver("1600000001.x y")
        self.deliver("new-message")
        self.assertEqual(self.codes(), ["h message-name", "h message-undated"])

    def test_many(self):
        """Only some names are shown."""
        for number in range(MAX_NAMES + 2):
            self.deliver(f"160000000{number}.x", b"")
        [finding] = self.findings()
        self.assertEqual(finding.what.count(".x"), MAX_NAMES)
        self.assertTrue(finding.what.endswith(" and 2 more"), finding.what)
