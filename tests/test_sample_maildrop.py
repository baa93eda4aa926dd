"""The sample maildrop: made once, and read by the very commands that it prints."""

import re
import shutil
import subprocess
import sys

from tests.live.harness import (
    SAMPLE,
    SAMPLES,
    Server,
    ServerTestCase,
    read_maildir,
    run,
    temporary_directory,
    wire_form,
)


class SampleMaildropTests(ServerTestCase):
    """examples/sample_maildrop.py, as ``make serve`` calls it."""

    def make(self, *arguments):
        """Run the example."""
        return run(sys.executable, SAMPLE, *arguments)

    def made(self):
        """Return a root with the maildrop, and what was printed about it."""
        root = temporary_directory(self) / "sample"
        done = self.make(root)
        self.assertEqual(done.returncode, 0, done.stderr)
        return root, done.stdout.decode()

    def test_made_once(self):
        """The Maildir holds the messages in order; a second run only says the same again."""
        root, said = self.made()
        self.assertEqual(read_maildir(root / "joe"), SAMPLES)
        (message, *_) = (root / "joe" / "new").iterdir()
        message.unlink()
        users = (root / ".users").read_bytes()
        self.assertEqual(self.make(root).stdout.decode(), said)
        self.assertEqual(len(read_maildir(root / "joe")), len(SAMPLES) - 1)
        self.assertEqual((root / ".users").read_bytes(), users)

    def test_usage(self):
        """Without a ROOT it says what it needs."""
        done = self.make()
        self.assertEqual((done.returncode, done.stderr), (1, b"usage: sample_maildrop.py ROOT\n"))

    def test_odd_ones_are_there(self):
        """Between them the messages need every rule of the wire form (RFC 1725 section 3)."""
        text = b"".join(SAMPLES)
        self.assertTrue(any(len(message) > 3_000_000 for message in SAMPLES))
        self.assertTrue(any(not message.endswith(b"\n") for message in SAMPLES))
        self.assertTrue(any(message.count(b"\r\n") == message.count(b"\n") for message in SAMPLES))
        for odd in (b"\n.\n", b"\xfc", "😀".encode(), b"multipart/alternative", b"base64"):
            self.assertIn(odd, text)

    def test_printed_commands(self):
        """The commands print the first message, as they stand but for the port."""
        root, said = self.made()
        server = Server(root=root)
        self.addCleanup(server.stop)
        who, curl, python = said.replace("1110", str(server.port)).splitlines()
        self.assertEqual(who, "user joe, password secret")
        if shutil.which("curl"):
            self.assertEqual(self.shell(curl), wire_form(SAMPLES[0]))
        printed = self.shell(re.sub("^python3", sys.executable, python))
        self.assertEqual(printed, wire_form(SAMPLES[0], b"\n"))

    def shell(self, command):
        """Return what a command line prints."""
        return subprocess.run(command, shell=True, capture_output=True, check=True).stdout
