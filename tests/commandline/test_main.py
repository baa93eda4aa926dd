"""Tests of popserv.commandline.main."""

import errno
import os
import shutil
import subprocess
import sys
import syslog
from pathlib import Path
from unittest import SkipTest, mock

import popserv
from popserv.auth.passwords.schemes import verify
from popserv.commandline.main import main
from tests.commandline.harness import CommandCase

BROKEN = """
import errno, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            raise eval(sys.argv[2])

sys.meta_path.insert(0, Finder())
from popserv.commandline.main import main

sys.exit(main(sys.argv[3:]))
"""
"""A program that runs ``popserv`` where a module cannot be imported."""


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
        # A session installs a reactor of its own.
        with mock.patch("popserv.commandline.session.main", return_value=7) as session:
            self.assertEqual(self.run_command(["session", "--help"]), (7, "", ""))
        session.assert_called_once_with(["--help"])
        version = f"popserv {popserv.__version__}\n"
        self.assertEqual(self.run_command(["--version"]), (0, version, ""))


class DeliverTests(CommandCase):
    """``popserv deliver`` if it fails before it begins, or after it has ended."""

    def broken(self, name, error, *arguments):
        """Run the command where the import of a module raises an error; return what was done."""
        return subprocess.run(
            [sys.executable, "-c", BROKEN, name, error, *arguments],
            input=b"text\n",
            capture_output=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )

    def test_broken_imports(self):
        """If something cannot be imported, the exit code says that the mail is to be kept."""
        os.makedirs(os.path.join(self.directory, "ann", "new"))
        for name, error in (
            ("popserv.commandline.parsing", "OSError(errno.ENFILE, 'Too many open files')"),
            ("argparse", "MemoryError()"),
            ("popserv.commandline.deliver", "SyntaxError('half of it')"),
            ("popserv.maildrops.maildir.kind", "ImportError('no such name')"),
            ("twisted.internet.reactor", "KeyboardInterrupt()"),
        ):
            done = self.broken(name, error, "deliver", "--maildir", self.directory, "ann")
            self.assertEqual(done.returncode, os.EX_TEMPFAIL, (name, done))
            self.assertEqual((done.stdout, done.stderr[:6]), (b"", b"4.3.0 "), name)

    def test_other_commands(self):
        """Other commands show what is wrong."""
        done = self.broken("popserv.commandline.parsing", "ImportError('this')", "user", "list")
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"ImportError: this", done.stderr)

    def test_failed_report(self):
        """The exit code is the same if nothing can be printed, or written to the system's log."""
        arguments = ["deliver", "--maildir", self.directory, "ann"]
        full = OSError(errno.ENOSPC, "full")
        with mock.patch("popserv.commandline.deliver.run", side_effect=ValueError("secret")):
            with mock.patch("syslog.openlog", side_effect=full):
                self.assertEqual(self.run_command(arguments)[0], os.EX_TEMPFAIL)
            with mock.patch("sys.stderr", write=mock.Mock(side_effect=full)):
                self.assertEqual(main(arguments), os.EX_TEMPFAIL)

    def test_report(self):
        """The reason is in the system's log, and not in what may be sent to others."""
        arguments = ["deliver", "--maildir", self.directory, "ann"]
        with (
            mock.patch("syslog.openlog"),
            mock.patch("syslog.syslog") as log,
            mock.patch("popserv.commandline.deliver.run", side_effect=ValueError("secret")),
        ):
            done = self.run_command(arguments)
        self.assertEqual(done, (os.EX_TEMPFAIL, "", "4.3.0 temporary failure\n"))
        expected = "message not delivered: ValueError('secret')"
        log.assert_called_once_with(syslog.LOG_WARNING, expected)


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
