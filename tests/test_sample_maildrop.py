"""The sample maildrop is created once, and the commands that the example prints work."""

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
    """examples/sample_maildrop.py, as ``make serve`` runs it."""

    def run_example(self, *arguments):
        """Run the example."""
        return run(sys.executable, SAMPLE, *arguments)

    def create(self):
        """Create a maildrop; return its root and the output of the example."""
        root = temporary_directory(self) / "sample"
        done = self.run_example(root)
        self.assertEqual(done.returncode, 0, done.stderr)
        return root, done.stdout.decode()

    def test_created_once(self):
        """The Maildir has the messages in order; a second run changes nothing."""
        root, output = self.create()
        self.assertEqual(read_maildir(root / "joe"), SAMPLES)
        (message, *_) = (root / "joe" / "new").iterdir()
        message.unlink()
        users = (root / ".users").read_bytes()
        self.assertEqual(self.run_example(root).stdout.decode(), output)
        self.assertEqual(len(read_maildir(root / "joe")), len(SAMPLES) - 1)
        self.assertEqual((root / ".users").read_bytes(), users)

    def test_emptied(self):
        """If all messages were deleted, the example says how to get them back."""
        root, output = self.create()
        for message in (root / "joe" / "new").iterdir():
            message.unlink()
        hint, _, rest = self.run_example(root).stdout.decode().partition("\n")
        self.assertIn(f": rm -r {root},", hint)
        self.assertEqual(rest, output)
        # A directory of another user is not a sample.
        (root / "joe").rename(root / "ann")
        self.assertEqual(self.run_example(root).stdout.decode(), output)

    def test_usage(self):
        """Without an argument, the example prints its usage and fails."""
        done = self.run_example()
        self.assertEqual((done.returncode, done.stderr), (1, b"usage: sample_maildrop.py ROOT\n"))

    def test_unusual_messages(self):
        """Together the messages require every rule of the wire form (RFC 1725 section 3)."""
        text = b"".join(SAMPLES)
        self.assertTrue(any(len(message) > 3_000_000 for message in SAMPLES))
        self.assertTrue(any(not message.endswith(b"\n") for message in SAMPLES))
        self.assertTrue(any(message.count(b"\r\n") == message.count(b"\n") for message in SAMPLES))
        for octets in (b"\n.\n", b"\xfc", "😀".encode(), b"multipart/alternative", b"base64"):
            self.assertIn(octets, text)

    def test_printed_commands(self):
        """The printed commands print the first message; only the port is replaced."""
        root, output = self.create()
        server = Server(root=root)
        self.addCleanup(server.stop)
        user, curl, python = output.replace("1110", str(server.port)).splitlines()
        self.assertEqual(user, "user joe, password secret")
        if shutil.which("curl"):
            self.assertEqual(self.shell(curl), wire_form(SAMPLES[0]))
        printed = self.shell(re.sub("^python3", sys.executable, python))
        self.assertEqual(printed, wire_form(SAMPLES[0], b"\n"))

    def shell(self, command):
        """Run a shell command; return its output."""
        return subprocess.run(command, shell=True, capture_output=True, check=True).stdout
