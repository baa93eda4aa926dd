"""Tests of popserv.commandline.user."""

import errno
import io
import os
from itertools import product
from unittest import mock

from popserv.auth.passwords import users_file_editing
from popserv.auth.passwords.schemes import split_field, verify
from popserv.auth.passwords.scram_keys import SCRAM_ITERATIONS
from popserv.commandline import user, user_places
from tests.commandline.harness import CommandCase


class FakeTerminal(io.StringIO):
    """A standard input that claims to be a terminal."""

    def isatty(self):
        """Return True."""
        return True


class AddTests(CommandCase):
    """``popserv user add`` and ``popserv user passwd``."""

    def test_add(self):
        """``add`` stores a SCRAM-SHA-256 secret with all iterations, and prints nothing."""
        self.assertEqual(self.run_user("add", "ann"), (0, "", ""))
        self.assertTrue(self.field().startswith(b"{SCRAM-SHA-256}%d," % SCRAM_ITERATIONS))
        self.assertTrue(verify(self.field(), b"password"))
        self.assertFalse(verify(self.field(), b"password\n"))
        self.assertEqual(self.mode(), 0o600)

    def test_add_apop(self):
        """With --apop, the secret is stored in cleartext, for APOP (RFC 1725 section 12)."""
        self.assertEqual(self.run_user("add", "ann", "--apop", stdin="tanstaaf\n"), (0, "", ""))
        self.assertEqual(self.field(), b"{APOP}tanstaaf")
        self.assertEqual(self.run_user("add", "--apop", "bob", stdin="tan: staaf")[0], 0)
        self.assertEqual(split_field(self.field(b"bob")), (b"APOP", b"tan: staaf"))

    def test_spellings(self):
        """All commands find a user by another Unicode spelling of the name."""
        decomposed = "e\u0301"
        self.assertEqual(self.run_user("add", decomposed), (0, "", ""))
        for arguments, shown in (
            (("disable", decomposed), "nologin"),
            (("enable", decomposed), ""),
            (("set", decomposed, "popserv_since=3d"), "popserv_since=3d"),
            (("passwd", decomposed), "popserv_since=3d"),
        ):
            self.assertEqual(self.run_user(*arguments), (0, "", ""))
            _, out, _ = self.run_user("list")
            self.assertEqual(out, f"é\tSCRAM-SHA-256\t{shown}".rstrip("\t") + "\n")
        self.assertEqual(self.run_user("remove", decomposed), (0, "", ""))
        self.assertEqual(self.content(), b"")

    def test_no_maildir(self):
        """With --maildir, ``add`` says if the user has no Maildir yet, or cannot have one."""
        os.mkdir(os.path.join(self.directory, "ann"))
        os.mknod(os.path.join(self.directory, "file"))
        place = ["--maildir", self.directory]
        self.assertEqual(self.run_user("add", "ann", file=place), (0, "", ""))
        code, out, err = self.run_user("add", "bob", file=place)
        self.assertEqual((code, out), (0, ""))
        self.assertEqual(
            err,
            f"bob has no Maildir at {self.directory}/bob yet, and sees an empty maildrop until "
            "mail is delivered there; if the mail is elsewhere, correct --maildir\n",
        )
        self.assertEqual(self.run_user("passwd", "bob", file=place), (0, "", ""))
        code, _, err = self.run_user("add", "file", file=place)
        self.assertEqual((code, err.startswith("maildrop of file: ")), (0, True), err)
        template = ["--maildir", f"{self.directory}/%d/%n"]
        code, _, err = self.run_user("add", "cid", file=template)
        expected = 'maildrop of cid: "cid" is not a valid name for a maildrop\n'
        self.assertEqual((code, err), (0, expected))
        self.assertEqual(self.run_user("add", "dan")[2], "")

    def test_passwd(self):
        """``passwd`` replaces a secret of any scheme and keeps the fields after it."""
        self.write(b"ann:{PLAIN}old:1:2::/home/ann\n")
        self.assertEqual(self.run_user("passwd", "ann"), (0, "", ""))
        self.assertTrue(verify(self.field(), b"password"))
        self.assertTrue(self.content().endswith(b":1:2::/home/ann\n"))
        self.assertEqual(self.run_user("passwd", "ann", "--apop"), (0, "", ""))
        self.assertEqual(self.field(), b"{APOP}password")

    def test_empty_password(self):
        """An empty or missing password is rejected."""
        self.write(b"ann:{PLAIN}a\n")
        for stdin, apop in product(("", "\n", "\r\n"), ([], ["--apop"])):
            self.assert_error("empty", "passwd", "ann", *apop, stdin=stdin)

    def test_name_before_password(self):
        """An invalid name is rejected before the password is read."""
        stdin = mock.Mock(isatty=mock.Mock(side_effect=AssertionError("password was read")))
        code, _, err = self.run_command(["user", "add", "a b", "--users", self.path], stdin)
        self.assertEqual(code, 2)
        self.assertIn("is not a valid user name", err)

    def test_octets(self):
        """A password consists of the octets of one line, in any charset, including spaces."""
        for number, secret in enumerate((b" pass word ", "grün".encode(), b"gr\xfcn", b"\xff\xfe")):
            name = f"u{number}"
            for end in (b"", b"\n", b"\r\n", b"\nanother line\n"):
                command = "passwd" if end else "add"
                code = self.run_user(command, name, "--apop", stdin=secret + end)[0]
                self.assertEqual(code, 0, f"{secret + end!r}")
                self.assertEqual(split_field(self.field(name.encode())), (b"APOP", secret))

    def test_terminal(self):
        """On a terminal the password is read twice; passwords that do not match are rejected."""
        for passwords, expected in ((["a", "b"], 1), (["", ""], 1), (["password"] * 2, 0)):
            with mock.patch.object(user.getpass, "getpass", side_effect=passwords) as getpass:
                code, out, err = self.run_command(
                    ["user", "add", "ann", "--users", self.path], FakeTerminal()
                )
            self.assertEqual((code, out, getpass.call_count), (expected, "", 2))
            self.assertEqual("nothing was changed" in err, bool(expected))
            self.assertEqual(os.path.exists(self.path), not expected)
        self.assertTrue(verify(self.field(), b"password"))

    def test_interrupted(self):
        """^C and ^D at the password prompt end the command without a change."""
        for reason in (KeyboardInterrupt, EOFError):
            with mock.patch.object(user.getpass, "getpass", side_effect=reason):
                code, out, err = self.run_command(
                    ["user", "add", "ann", "--users", self.path], FakeTerminal()
                )
            self.assertEqual((code, out, err), (1, "", "popserv: interrupted\n"))
        self.assertEqual(os.listdir(self.directory), [])

    def test_interrupted_change(self):
        """^C while the file is written does not promise that nothing was changed."""
        with mock.patch.object(
            users_file_editing.os, "fsync", side_effect=[None, KeyboardInterrupt]
        ):
            code, out, err = self.run_user("add", "ann")
        told = "interrupted; whether the user was changed is unknown, see: popserv user list"
        self.assertEqual((code, out, err), (1, "", f"popserv: {told}\n"))
        self.assertTrue(verify(self.field(), b"password"))


class RemoveTests(CommandCase):
    """``popserv user remove``."""

    def test_remove(self):
        """``remove`` deletes the user from the file and reads no password."""
        self.write(b"ann:{PLAIN}a\nbob:{PLAIN}b\n")
        self.assertEqual(self.run_user("remove", "ann", stdin=""), (0, "", ""))
        self.assertEqual(self.content(), b"bob:{PLAIN}b\n")


class FieldsTests(CommandCase):
    """``popserv user disable``, ``enable`` and ``set``."""

    def test_changed(self):
        """Each command changes the line of the user, and ``list`` shows the result."""
        self.write(b"ann:{PLAIN}a\n")
        for arguments, shown in (
            (("disable", "ann"), "\tnologin"),
            (("enable", "ann"), ""),
            (("set", "ann", "popserv_since=1d", "popserv_read_only"), None),
            (("set", "ann", "popserv_since="), "\tpopserv_read_only"),
        ):
            self.assertEqual(self.run_user(*arguments), (0, "", ""))
            if shown is not None:
                self.assertEqual(self.run_user("list"), (0, f"ann\tPLAIN{shown}\n", ""))

    def test_errors(self):
        """An unknown user, an invalid field and a missing file are errors."""
        self.write(b"ann:{PLAIN}a\n")
        for command in ("disable", "enable"):
            self.assert_error("user bob is not in", command, "bob")
        self.assert_error("popserv_since: must be", "set", "ann", "popserv_since=1", code=2)
        os.unlink(self.path)
        for arguments in (("disable", "ann"), ("enable", "ann"), ("set", "ann", "nologin")):
            self.assert_error("does not exist", *arguments)
        self.assertFalse(os.path.exists(self.path))


class ListTests(CommandCase):
    """``popserv user list``."""

    def test_list(self):
        """``list`` prints each user and scheme in the order of the file, and no secrets."""
        self.write(b"bob:{apop.hex}63\nann:{SHA}s3cret\ncid:s3cret\n")
        output = "bob\tAPOP\nann\tSHA\ncid\tCRYPT\n"
        self.assertEqual(self.run_user("list"), (0, output, ""))
        os.unlink(self.path)
        code, out, err = self.run_user("list")
        self.assertEqual((code, out), (1, ""))
        self.assertIn(f"{self.path} does not exist", err)

    def test_unreadable(self):
        """A file that cannot be read is told, with the reason."""
        self.write(b"ann:{PLAIN}a\n")
        error = OSError(errno.EIO, "I/O error")
        for arguments in (("list",), ("check",), ("disable", "ann")):
            with mock.patch.object(user_places, "read_records", side_effect=error):
                code, out, err = self.run_user(*arguments)
            self.assertEqual((code, out), (1, ""))
            self.assertEqual(err, f"popserv: cannot read {self.path}: I/O error\n")

    def test_malformed(self):
        """A malformed secret, and a name that is not UTF-8, do not hide the other users."""
        self.write(b"ann:{PLAIN.hex}s3cret\nbob:{PLAIN.b64}\xff\n\xff:{PLAIN}x\ncid:{PLAIN}x\n")
        code, out, err = self.run_user("list")
        self.assertEqual((code, err), (0, ""))
        self.assertEqual([line.rpartition("\t")[2] for line in out.splitlines()], ["PLAIN"] * 4)
        self.assertNotIn("s3cret", out)


class ErrorTests(CommandCase):
    """Errors of all commands, and the options that name the users file."""

    def test_errors(self):
        """An error is one line on standard error that names the reason; the exit code is not 0."""
        self.write(b"ann:{PLAIN}a\n")
        self.assert_error("is already in", "add", "ann")
        self.assert_error("is not in", "passwd", "bob")
        self.assert_error("is not in", "remove", "bob")
        self.assert_error("is not a valid user name", "add", "an:n", code=2)
        self.assert_error("is not a valid user name", "add", "../ann", code=2)
        os.chmod(self.path, 0o644)
        code, out, err = self.run_user("list")
        self.assertEqual((code, out), (1, ""))
        self.assertIn("chmod o=", err)

    def test_no_directory(self):
        """If the directory of the users file does not exist, the error names the file."""
        path = os.path.join(self.directory, "none", "users")
        self.assert_error(path, "add", "ann", file=["--users", path])

    def test_maildir(self):
        """--maildir accepts each value that twistd pop3 accepts, and finds the same users file."""
        for number, template in enumerate(("", "/%u", "/%d/%n", "/x%u/Maildir")):
            name = f"u{number}"
            code = self.run_user("add", name, file=["--maildir", self.directory + template])[0]
            self.assertEqual(code, 0)
            self.assertTrue(verify(self.field(name.encode()), b"password"))

    def test_invalid_maildir(self):
        """An invalid template is rejected with the reason."""
        for template, message in (("/%x", "%x is not known"), ("/%d", "share one maildrop")):
            self.assert_error(
                message, "list", code=2, file=["--maildir", self.directory + template]
            )
