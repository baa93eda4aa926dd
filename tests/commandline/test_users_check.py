"""Tests of popserv.commandline.users_check, by the command ``popserv user check``."""

import os
from base64 import b64encode

from popserv.auth.hmac_md5 import hmac_md5_context
from popserv.auth.passwords import schemes
from popserv.auth.passwords.schemes import new_scram_sha256
from tests.commandline.harness import CommandCase


class UsersCheckTests(CommandCase):
    """``popserv user check``."""

    def check(self, text, *arguments, file=None):
        """Return the exit code, the rows as three columns, and standard error."""
        self.write(text)
        code, out, err = self.run_user("check", *arguments, file=file)
        return code, [(*line.split("\t"), "")[:3] for line in out.splitlines()], err

    def test_fine(self):
        """Nobody is refused: the ways to log in, and the conditions; the exit code is 0."""
        self.assertEqual(
            self.check(
                b"# users\nann:{PLAIN}a\nbob:{PLAIN}b::::::allow_nets=10.0.0.5/8,local user=info "
                b"userdb_x=y\ncid:{PLAIN}c::::::delay_until=99999999999\ntwo words:{PLAIN}d\n"
                b"eve:{PLAIN}e::::::delay_until=5\n"
            ),
            (
                0,
                [
                    ("ann", ALL, ""),
                    ("bob", ALL, "only from 10.0.0.0/8, local (allow_nets); maildrop info (user)"),
                    ("cid", ALL, "not before 5138-11-16T09:46:39Z (delay_until)"),
                    ("two words", ALL, ""),
                    ("eve", ALL, ""),
                ],
                "",
            ),
        )

    def test_settings(self):
        """The settings of a user are remarks."""
        code, rows, _ = self.check(
            b"ann:{PLAIN}a::::::popserv_require_tls popserv_read_only popserv_maildrop=/a/b "
            b"popserv_deleted=move:Tr\xc3\xa4sh popserv_since=2d\n"
            b"bob:{PLAIN}b::::::popserv_nologin\n"
        )
        self.assertEqual(code, 1)
        self.assertEqual(
            rows[0][2],
            "only with TLS (popserv_require_tls); read-only (popserv_read_only); "
            "maildrop /a/b (popserv_maildrop); deleted messages: move:Tr\xe4sh "
            "(popserv_deleted); messages of the last 48 hours (popserv_since)",
        )
        self.assertEqual(rows[1][1:], ("refused", "popserv_nologin is set"))

    def test_methods(self):
        """SCRAM and CRAM-MD5 are shown only if they are offered, as every password suits them."""
        cram_md5 = b"{CRAM-MD5.b64}" + b64encode(hmac_md5_context(b"b"))
        scram = new_scram_sha256(b"c", 1)
        for text, *methods in (
            (
                b"ann:{PLAIN}a\nbob:%b" % cram_md5,
                *["password, CRAM-MD5"] * 2,
            ),
            (b"ann:{PLAIN}a\nbob:%b" % scram, *["password, SCRAM-SHA-256"] * 2),
            (b"ann:{PLAIN}a\nbob:{SHA}2jmj7l5rSw0yVb/vlWAYkK/YBwk=", "password", "password"),
            (b"ann:{PLAIN}a\nbob:{APOP}b", ALL, "APOP"),
            (b"ann:\nbob:{PLAIN}", "certificate", "certificate"),
        ):
            rows = [("ann", methods[0], ""), ("bob", methods[1], "")]
            self.assertEqual(self.check(text), (0, rows, ""))

    def test_refused(self):
        """Each user who cannot log in is refused with a reason; the exit code is 1."""
        for line, reason in (
            (b"{PLAIN}s3cret::::::nologin", "nologin is set"),
            (b"{PLAIN}s3cret::::::surprise=1", "unknown extra field surprise"),
            (b"{PLAIN}s3cret::::::allow_nets=x", "allow_nets: x is not a network"),
            (b"{SSHA}s3cret", "malformed password field"),
            (b"{APOP.hex}s3cret", "malformed password field"),
            (b"!s3cret", "libcrypt does not support"),
        ):
            code, [row], err = self.check(b"ann:" + line)
            self.assertEqual((code, row[:2], err), (1, ("ann", "refused"), ""))
            self.assertIn(reason, row[2])
            self.assertNotIn("s3cret", row[2])

    def test_missing_library(self):
        """A user whose scheme requires a library that is missing is refused, with the remedy."""
        self.patch(schemes, "argon2", None)
        code, [row], _ = self.check(b"ann:{ARGON2ID}s3cret")
        self.assertEqual((code, row[1]), (1, "refused"))
        self.assertIn("pip install", row[2])

    def test_warnings(self):
        """A mistake that does not refuse the user also results in the exit code 1."""
        for line, method, reason in (
            (b"{DIGEST-MD5}s3cret", "certificate", "unknown password scheme DIGEST-MD5"),
            (b"{PLAIN}s3cret::::::allow_nets=::1,x", ALL, "x is not a network"),
        ):
            code, [row], err = self.check(b"ann:" + line)
            self.assertEqual((code, row[:2], err), (1, ("ann", method), ""))
            self.assertIn(reason, row[2])

    def test_mistakes(self):
        """An ignored line is an error with its number; its text is not printed."""
        code, rows, err = self.check(b"s3cret\nann:{PLAIN}a\nann:{PLAIN}s3cret\n")
        self.assertEqual((code, rows), (1, [("ann", ALL, "")]))
        start = f"popserv: {self.path}, line"
        self.assertEqual(
            err.splitlines(),
            [
                f"{start} 1: line ignored, it must be name:{{SCHEME}}secret",
                f"{start} 3: line ignored, ann is already on an earlier line",
            ],
        )

    def test_maildrops(self):
        """A name that cannot be that of a maildrop is refused, with the layout of --maildir."""
        text = b"a/b:{PLAIN}a\n.x:{PLAIN}a\nann:{PLAIN}a\nann@example.org:{PLAIN}a\n"
        for template, allowed in (
            (self.directory, {"ann", "ann@example.org"}),
            (os.path.join(self.directory, "%d", "%n"), {"ann@example.org"}),
        ):
            code, rows, _ = self.check(text, file=["--maildir", template])
            self.assertEqual(code, 1)
            self.assertEqual({row[0] for row in rows if row[1] != "refused"}, allowed)
        code, rows, _ = self.check(text)
        self.assertEqual([row[1] for row in rows], ["refused", "refused", ALL, ALL])

    def test_default_domain(self):
        """With --default-domain, nobody can send a name without @."""
        code, rows, _ = self.check(
            b"ann:{PLAIN}a\nann@x:{PLAIN}a\n", "--default-domain", "example.org"
        )
        self.assertEqual((code, [row[1] for row in rows]), (1, ["refused", ALL]))

    def test_names(self):
        """A name is printed as text, with everything that is not printable escaped."""
        _, rows, _ = self.check("jürgen:{PLAIN}a\nx\x1b\ty:{PLAIN}a\n".encode())
        self.assertEqual([row[0] for row in rows], ["jürgen", r"x\x1b\ty"])

    def test_unusable_file(self):
        """A file that does not exist, or that others can read, is an error."""
        self.assertEqual(self.run_user("check")[0], 1)
        self.write(b"ann:{PLAIN}a")
        os.chmod(self.path, 0o644)
        code, out, err = self.run_user("check")
        self.assertEqual((code, out), (1, ""))
        self.assertIn("chmod o=", err)

    def test_empty(self):
        """A file without users is no problem."""
        self.assertEqual(self.check(b"# nobody\n"), (0, [], ""))


ALL = "password, SCRAM-SHA-256, SCRAM-SHA-1, CRAM-MD5"
