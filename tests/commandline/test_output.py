"""Tests of popserv.commandline.output."""

import errno
import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

from popserv.commandline.main import main
from tests.commandline.harness import CommandCase

COMMAND = "import sys; from popserv.commandline.main import main; sys.exit(main())"


class OutputTests(CommandCase):
    """Standard output that cannot be written."""

    def run_to(self, stream, error=None):
        """Run a command that prints 100,000 octets to a stream; return the exit code and errors."""

        def run(arguments):
            for _ in range(1000):
                print(99 * "x")
            if error is not None:
                raise error
            return 7

        err = io.StringIO()
        with (
            mock.patch("popserv.commandline.parsing.run", run),
            redirect_stdout(stream),
            redirect_stderr(err),
        ):
            code = main(["user", "list"])
            self.stdout = sys.stdout
        return code, err.getvalue()

    def test_written(self):
        """All is written when the command ends, and the exit code is its own."""
        for buffering in (1, 1 << 20):
            with open(os.path.join(self.directory, "out"), "w+", buffering) as stream:
                self.assertEqual(self.run_to(stream), (7, ""))
                self.assertIs(self.stdout, stream)
                self.assertEqual(os.path.getsize(stream.name), 100_000)
            self.assertTrue(stream.closed)

    def test_full(self):
        """A full disk is told in one line, whether it is found at once or at the end."""
        problem = "popserv: cannot write to standard output: [Errno 28] No space left on device\n"
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        for method in ("write", "flush"):
            stream = io.StringIO()
            with mock.patch.object(stream, method, side_effect=full):
                self.assertEqual(self.run_to(stream), (1, problem))
            self.assertIsNone(self.stdout)

    def test_help(self):
        """So is what is printed before the command exits by itself."""
        stream, err = io.StringIO(), io.StringIO()
        gone = BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        with (
            mock.patch.object(stream, "flush", side_effect=gone),
            redirect_stdout(stream),
            redirect_stderr(err),
        ):
            self.assertEqual(main(["--help"]), 1)
        self.assertEqual(err.getvalue(), "")

    def test_processes(self):
        """Python adds nothing; a reader that needs no more, such as head, is not worth a line."""
        self.write(b"".join(b"user%d:{PLAIN}x\n" % number for number in range(20_000)))
        reading, writing = os.pipe()
        os.close(reading)
        full = "popserv: cannot write to standard output: [Errno 28] No space left on device\n"
        with open(writing, "wb") as pipe, open("/dev/full", "wb") as device:
            for file, told in ((pipe, ""), (device, full)):
                done = subprocess.run(
                    [sys.executable, "-c", COMMAND, "user", "list", "--users", self.path],
                    stdout=file,
                    stderr=subprocess.PIPE,
                    env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
                    text=True,
                )
                self.assertEqual((done.returncode, done.stderr), (1, told))

    def test_closed(self):
        """Without standard output, the exit code is that of the command."""
        self.assertEqual(self.run_to(None), (7, ""))

    def test_other_errors(self):
        """Any other error is shown as it is."""
        stream = io.StringIO()
        with self.assertRaisesRegex(OSError, "another"):
            self.run_to(stream, OSError("another"))
        self.assertEqual(len(stream.getvalue()), 100_000)

    def test_attributes(self):
        """Commands see the stream itself."""

        def run(arguments):
            self.assertEqual(sys.stdout.getvalue(), "")
            return 0

        with (
            mock.patch("popserv.commandline.parsing.run", run),
            redirect_stdout(io.StringIO()),
        ):
            self.assertEqual(main(["user", "list"]), 0)
