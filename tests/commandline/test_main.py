"""The ``popserv`` command, in this process and as it is installed."""

import io
import os
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from itertools import product
from unittest import SkipTest, mock

import popserv
from popserv.auth.passwords.schemes import split_field, verify
from popserv.auth.passwords.scram_keys import SCRAM_ITERATIONS
from popserv.auth.passwords.users_file import UsersFile
from popserv.commandline import main as cli
from tests.auth.passwords.test_users_file import UsersFileCase


class Terminal(io.StringIO):
    """A standard input that says it is a terminal."""

    def isatty(self):
        """Say so."""
        return True


class CliCase(UsersFileCase):
    """Runs the command on a users file of its own."""

    def user(self, *words, typed="password\n", where=None):
        """Run ``popserv user WORDS``; return the exit code, stdout and stderr.

        ``typed`` is standard input, as text that is encoded as UTF-8, or as bytes.
        """
        octets = typed if isinstance(typed, bytes) else typed.encode()
        stdin = io.TextIOWrapper(io.BytesIO(octets), encoding="utf-8")
        return self.run_main(["user", *words, *(where or ["--users", self.path])], stdin)

    def run_main(self, arguments, stdin=None):
        """Run the command; return the exit code, stdout and stderr."""
        # As Python opens it: strict, so that what cannot be printed fails.
        out, err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline=""), io.StringIO()
        with mock.patch.object(sys, "stdin", stdin), redirect_stdout(out), redirect_stderr(err):
            try:
                code = cli.main(arguments)
            except SystemExit as left:
                code = left.code
        out.flush()
        return code, out.buffer.getvalue().decode("utf-8", "replace"), err.getvalue()

    def fails(self, said, *words, **more):
        """Fail unless the command fails, says so on stderr alone, and changes nothing."""
        before = UsersFile(self.path).read()
        code, out, err = self.user(*words, **more)
        self.assertEqual((code, out), (1, ""))
        self.assertTrue(err.startswith("popserv: "), err)
        self.assertIn(said, err)
        self.assertEqual(err.count("\n"), 1)
        self.assertEqual(UsersFile(self.path).read(), before)

    def field(self, name=b"ann"):
        """Return a user's password field."""
        return UsersFile(self.path).read().password_fields[name]


class UserTests(CliCase):
    """popserv user add, passwd, remove, list."""

    def test_add(self):
        """A new user has a SCRAM-SHA-256 secret of full strength, and nothing is printed."""
        self.assertEqual(self.user("add", "ann"), (0, "", ""))
        self.assertTrue(self.field().startswith(b"{SCRAM-SHA-256}%d," % SCRAM_ITERATIONS))
        self.assertTrue(verify(self.field(), b"password"))
        self.assertFalse(verify(self.field(), b"password\n"))
        self.assertEqual(self.mode(), 0o600)

    def test_add_apop(self):
        """With --apop the secret is kept as it is, for APOP alone (RFC 1725 section 12)."""
        self.assertEqual(self.user("add", "ann", "--apop", typed="tanstaaf\n"), (0, "", ""))
        self.assertEqual(self.field(), b"{APOP}tanstaaf")
        self.assertEqual(self.user("add", "--apop", "bob", typed="tan: staaf")[0], 0)
        self.assertEqual(split_field(self.field(b"bob")), (b"APOP", b"tan: staaf"))

    def test_passwd(self):
        """A new secret replaces the old one, of whatever kind, and keeps what is behind it."""
        self.write(b"ann:{PLAIN}old:1:2::/home/ann\n")
        self.assertEqual(self.user("passwd", "ann"), (0, "", ""))
        self.assertTrue(verify(self.field(), b"password"))
        self.assertTrue(self.content().endswith(b":1:2::/home/ann\n"))
        self.assertEqual(self.user("passwd", "ann", "--apop"), (0, "", ""))
        self.assertEqual(self.field(), b"{APOP}password")

    def test_remove(self):
        """A user who is removed is no longer in the file; nothing is asked."""
        self.write(b"ann:{PLAIN}a\nbob:{PLAIN}b\n")
        self.assertEqual(self.user("remove", "ann", typed=""), (0, "", ""))
        self.assertEqual(self.content(), b"bob:{PLAIN}b\n")

    def test_list(self):
        """Each user is listed in the file's order with the kind of secret, and never the secret."""
        self.write(b"bob:{apop.hex}63\nann:{SHA}s3cret\ncid:s3cret\n")
        listed = "bob\tAPOP\nann\tSHA\ncid\tCRYPT\n"
        self.assertEqual(self.user("list"), (0, listed, ""))
        os.unlink(self.path)
        code, out, err = self.user("list")
        self.assertEqual((code, out), (1, ""))
        self.assertIn(f"there is no {self.path}", err)

    def test_list_odd_users(self):
        """A malformed secret or a name in another charset does not hide the other users."""
        self.write(b"ann:{PLAIN.hex}s3cret\nbob:{PLAIN.b64}\xff\n\xff:{PLAIN}x\ncid:{PLAIN}x\n")
        code, out, err = self.user("list")
        self.assertEqual((code, err), (0, ""))
        self.assertEqual([line.rpartition("\t")[2] for line in out.splitlines()], ["PLAIN"] * 4)
        self.assertNotIn("s3cret", out)

    def test_refused(self):
        """What cannot be done is an exit code of 1 and a line on stderr that says why."""
        self.write(b"ann:{PLAIN}a\n")
        self.fails("is already in", "add", "ann")
        self.fails("is not in", "passwd", "bob")
        self.fails("is not in", "remove", "bob")
        self.fails("is not a valid user name", "add", "an:n")
        self.fails("is not a valid user name", "add", "../ann")
        os.chmod(self.path, 0o644)
        code, out, err = self.user("list")
        self.assertEqual((code, out), (1, ""))
        self.assertIn("chmod o=", err)

    def test_empty_password(self):
        """An empty password is refused, and so is none at all."""
        self.write(b"ann:{PLAIN}a\n")
        for typed, apop in product(("", "\n", "\r\n"), ([], ["--apop"])):
            self.fails("empty", "passwd", "ann", *apop, typed=typed)

    def test_name_before_password(self):
        """A name that cannot be is refused before a password is asked for."""
        stdin = mock.Mock(isatty=mock.Mock(side_effect=AssertionError("asked")))
        code, _, err = self.run_main(["user", "add", "a b", "--users", self.path], stdin)
        self.assertEqual(code, 1)
        self.assertIn("is not a valid user name", err)

    def test_bytes_as_typed(self):
        """A password is one line's bytes as they came, in any charset, spaces and all."""
        for number, secret in enumerate((b" pass word ", "grün".encode(), b"gr\xfcn", b"\xff\xfe")):
            name = f"u{number}"
            for end in (b"", b"\n", b"\r\n", b"\nanother line\n"):
                code = self.user("passwd" if end else "add", name, "--apop", typed=secret + end)[0]
                self.assertEqual(code, 0, f"{secret + end!r}")
                self.assertEqual(split_field(self.field(name.encode())), (b"APOP", secret))

    def test_no_users_file(self):
        """A place that is not there is an error that names it."""
        nowhere = os.path.join(self.directory, "none", "users")
        self.fails(nowhere, "add", "ann", where=["--users", nowhere])

    def test_interrupted(self):
        """Whoever thinks better of it has changed nothing."""
        for reason in (KeyboardInterrupt, EOFError):
            with mock.patch.object(cli.getpass, "getpass", side_effect=reason):
                code, out, err = self.run_main(
                    ["user", "add", "ann", "--users", self.path], Terminal()
                )
            self.assertEqual((code, out, err), (1, "", "popserv: nothing changed\n"))
        self.assertEqual(os.listdir(self.directory), [])

    def test_typed_twice(self):
        """At a terminal the password is asked for twice, and must be the same."""
        for answers, expected in ((["a", "b"], 1), (["", ""], 1), (["password"] * 2, 0)):
            with mock.patch.object(cli.getpass, "getpass", side_effect=answers) as asked:
                code, out, err = self.run_main(
                    ["user", "add", "ann", "--users", self.path], Terminal()
                )
            self.assertEqual((code, out, asked.call_count), (expected, "", 2))
            self.assertEqual("nothing changed" in err, bool(expected))
            self.assertEqual(os.path.exists(self.path), not expected)
        self.assertTrue(verify(self.field(), b"password"))


class OptionTests(CliCase):
    """Where the users file is, and what is no command."""

    def test_maildir(self):
        """--maildir takes what twistd pop3 takes, and finds the same users file."""
        for number, template in enumerate(("", "/%u", "/%d/%n", "/x%u/Maildir")):
            name = f"u{number}"
            code = self.user("add", name, where=["--maildir", self.directory + template])[0]
            self.assertEqual(code, 0)
            self.assertTrue(verify(self.field(name.encode()), b"password"))

    def test_bad_template(self):
        """A template that is none is an error that says what would be."""
        for template, said in (("/%x", "%x is not known"), ("/%d", "share one maildrop")):
            self.fails(said, "list", where=["--maildir", self.directory + template])

    def test_usage(self):
        """What is no command is told how to be one: exit code 2, stdout empty."""
        users = ["--users", self.path]
        for arguments in (
            [],
            ["user"],
            ["user", "list"],
            ["user", "add", *users],
            ["user", "rename", "ann", *users],
            ["user", "list", "--maildir", self.directory, *users],
            # A password in the arguments could be seen by everybody on the machine.
            ["user", "add", "ann", "password", *users],
            ["user", "add", "ann", "--password", "password", *users],
        ):
            code, out, err = self.run_main(arguments)
            self.assertEqual((code, out), (2, ""), arguments)
            self.assertIn("usage: popserv", err)
        self.assertEqual(os.listdir(self.directory), [])

    def test_help(self):
        """Help and the version go to stdout."""
        for arguments in (["--help"], ["user", "--help"], ["user", "add", "-h"]):
            code, out, err = self.run_main(arguments)
            self.assertEqual((code, err), (0, ""))
            self.assertIn("usage: popserv", out)
        version = f"popserv {popserv.__version__}\n"
        self.assertEqual(self.run_main(["--version"]), (0, version, ""))


class InstalledTests(CliCase):
    """The command as a process of its own."""

    def setUp(self):
        """Find the console script."""
        super().setUp()
        beside = os.path.join(os.path.dirname(sys.executable), "popserv")
        self.script = shutil.which(beside) or shutil.which("popserv")
        if self.script is None:
            raise SkipTest("popserv is not installed")

    def test_console_script(self):
        """The console script is installed, reads a password by pipe, and returns main's code."""
        command = [self.script, "user", "add", "ann", "--users", self.path]
        for code in (0, 1):
            done = subprocess.run(command, input=b"password\n", capture_output=True)
            self.assertEqual((done.returncode, done.stdout), (code, b""))
        self.assertIn(b"popserv: user ann is already in ", done.stderr)
        self.assertTrue(verify(self.field(), b"password"))

    def test_terminal(self):
        """At a real terminal the password is asked for twice, and never shown."""
        ours, theirs = os.openpty()
        self.addCleanup(os.close, ours)
        command = [self.script, "user", "add", "ann", "--users", self.path]
        # A session without a terminal of its own: getpass takes the one on its stdin.
        with subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        ) as process:
            os.close(theirs)
            shown = b""
            for prompt in (b"Password: ", b"Once more: "):
                while not shown.endswith(prompt):
                    shown += os.read(ours, 1000)
                os.write(ours, b"password\n")
            try:
                while more := os.read(ours, 1000):
                    shown += more
            except OSError:
                """The other end is closed, which a terminal tells so."""
        self.assertEqual(process.returncode, 0, f"{shown!r}")
        self.assertEqual(shown.split(), b"Password: Once more:".split())
        self.assertTrue(verify(self.field(), b"password"))
