"""Tests of popserv.commandline.main."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import SkipTest

import popserv
from popserv.auth.passwords.schemes import verify
from tests.commandline.harness import CommandCase


class MainTests(CommandCase):
    """The ``popserv`` command in this process."""

    def test_usage(self):
        """An invalid command line is told in one line on standard error; the exit code is 2."""
        file = ["--users", self.path]
        for arguments in (
            [],
            ["user"],
            ["user", "list"],
            ["user", "add", *file],
            ["user", "rename", "ann", *file],
            ["user", "list", "--maildir", self.directory, *file],
            # Other users of the machine could read a password among the arguments.
            ["user", "add", "ann", "password", *file],
            ["user", "add", "ann", "--password", "password", *file],
            ["uidl"],
            ["uidl", "import", "--from", "dovecot"],
            ["uidl", "export", "--from", "dovecot", "--maildir", "x"],
            ["compare", "pop3://h"],
        ):
            code, out, err = self.run_command(arguments)
            self.assertEqual((code, out, err.count("\n")), (2, "", 1), arguments)
            self.assertRegex(err, r"\Apopserv( \w+)*: .*; see popserv( \w+)* --help\n\Z")
        self.assertEqual(os.listdir(self.directory), [])

    def test_help(self):
        """Help and version are printed to standard output."""
        for arguments in (["--help"], ["user", "--help"], ["user", "add", "-h"]):
            code, out, err = self.run_command(arguments)
            self.assertEqual((code, err), (0, ""))
            self.assertIn("usage: popserv", out)
        version = f"popserv {popserv.__version__}\n"
        self.assertEqual(self.run_command(["--version"]), (0, version, ""))


class InstalledTests(CommandCase):
    """The installed ``popserv`` command in a process of its own."""

    def setUp(self):
        """Find the installed script, which then runs the code of this checkout."""
        super().setUp()
        beside_python = os.path.join(os.path.dirname(sys.executable), "popserv")
        script = shutil.which(beside_python) or shutil.which("popserv")
        if script is None:
            raise SkipTest("popserv is not installed")
        self.command = [script, "user", "add", "ann", "--users", self.path]
        self.environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}

    def test_pipe(self):
        """The command reads a password from a pipe and exits with the code of main."""
        for code in (0, 1):
            done = subprocess.run(
                self.command, input=b"password\n", capture_output=True, env=self.environment
            )
            self.assertEqual((done.returncode, done.stdout), (code, b""))
        self.assertIn(b"popserv: user ann is already in ", done.stderr)
        self.assertTrue(verify(self.field(), b"password"))

    def test_terminal(self):
        """On a terminal the command asks for the password twice and does not echo it."""
        ours, theirs = os.openpty()
        self.addCleanup(os.close, ours)
        # Without a controlling terminal, getpass uses standard input.
        with subprocess.Popen(
            self.command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env=self.environment,
        ) as process:
            os.close(theirs)
            output = b""
            for prompt in (b"New password: ", b"Retype new password: "):
                while not output.endswith(prompt):
                    output += os.read(ours, 1000)
                os.write(ours, b"password\n")
            try:
                while chunk := os.read(ours, 1000):
                    output += chunk
            except OSError:
                """A terminal reports in this way that its other end is closed."""
        self.assertEqual(process.returncode, 0, f"{output!r}")
        self.assertEqual(output.split(), b"New password: Retype new password:".split())
        self.assertTrue(verify(self.field(), b"password"))
