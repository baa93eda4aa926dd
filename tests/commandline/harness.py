"""Helpers that the tests of the ``popserv`` command share."""

import io
import os
import stat
import sys
from contextlib import redirect_stderr, redirect_stdout
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from popserv.auth.passwords.users_file import UsersFile, default_path
from popserv.commandline import main as popserv_command


class CommandCase(SynchronousTestCase):
    """Tests of the ``popserv`` command, with a directory for a users file."""

    def setUp(self):
        """Create the directory; the users file does not exist yet."""
        self.directory = os.path.abspath(self.mktemp())
        os.makedirs(self.directory)
        self.path = default_path(self.directory)

    def write(self, text):
        """Write the users file."""
        with open(self.path, "wb") as file:
            file.write(text)
            os.fchmod(file.fileno(), 0o600)

    def content(self):
        """Return the octets of the users file."""
        with open(self.path, "rb") as file:
            return file.read()

    def mode(self):
        """Return the permissions of the users file."""
        return stat.S_IMODE(os.stat(self.path).st_mode)

    def field(self, name=b"ann"):
        """Return the password field of a user."""
        return UsersFile(self.path).read().password_fields[name]

    def run_command(self, arguments, stdin=None):
        """Run the command; return the exit code, standard output and standard error."""
        # As Python opens the streams: text that cannot be encoded raises an error.
        out, err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline=""), io.StringIO()
        with mock.patch.object(sys, "stdin", stdin), redirect_stdout(out), redirect_stderr(err):
            try:
                code = popserv_command.main(arguments)
            except SystemExit as exit_:
                code = exit_.code
        out.flush()
        return code, out.buffer.getvalue().decode("utf-8", "replace"), err.getvalue()

    def run_user(self, *arguments, stdin="password\n", file=None):
        """Run ``popserv user``; return the exit code, standard output and standard error.

        ``stdin`` is text that is encoded as UTF-8, or octets; ``file`` are the arguments that
        name the users file.
        """
        octets = stdin if isinstance(stdin, bytes) else stdin.encode()
        stream = io.TextIOWrapper(io.BytesIO(octets), encoding="utf-8")
        return self.run_command(["user", *arguments, *(file or ["--users", self.path])], stream)

    def assert_error(self, message, *arguments, code=1, **keywords):
        """Check that ``popserv user`` fails with one line on standard error and no change."""
        before = UsersFile(self.path).read().by_name
        done, out, err = self.run_user(*arguments, **keywords)
        self.assertEqual((done, out), (code, ""))
        self.assertTrue(err.startswith("popserv: "), err)
        self.assertIn(message, err)
        self.assertEqual(err.count("\n"), 1)
        self.assertEqual(UsersFile(self.path).read().by_name, before)
