"""Tests of popserv.auth.passwords.secret_forms."""

from twisted.trial.unittest import SynchronousTestCase

from popserv.auth.passwords import secret_forms
from popserv.auth.passwords.schemes import (
    SCHEMES,
    SchemeUnavailable,
    UnknownScheme,
    join_field,
    new_scram_sha256,
)
from popserv.auth.passwords.secret_forms import WEAK_SCHEMES, check_form, weakness_of
from tests.auth.passwords.test_schemes import VECTORS, YESCRYPT

SHA512 = b"$6$abc$" + b"x" * 86
RIGHT = [
    new_scram_sha256(b"x", 1),
    b"{PLAIN}x",
    b"{APOP}x",
    b"{SHA256.hex}" + b"00" * 32,
    b"{PBKDF2}$1$salt$5000$" + b"0a" * 20,
    b"{SHA512-CRYPT}" + SHA512,
    SHA512,
    b"{CRYPT}",
    b"{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=4$MIIRqgvgQbgj220jfp0MPA$"
    b"YfwJSVjtjSU0zzV/P3S9nnQ/USre2wvJMjfCIjrTQbg",
]
WRONG = [
    b"{SCRAM-SHA-256}1,x",
    b"{SHA256.hex}0",
    b"{PBKDF2}$1$salt$5000$0a",
    b"{PBKDF2}$1$salt$9999999999$" + b"0a" * 20,
    b"{SHA512-CRYPT}$6$abc$x",
    b"secret",
    b"{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=4$MIIRqgvgQbgj220jfp0MPA",
    b"{SHA256-CRYPT}" + SHA512,
    b"{MD5}$1$abc$x",
]


class SecretFormsTests(SynchronousTestCase):
    """The forms of secrets."""

    def test_forms(self):
        """A secret that is whole is accepted, and a malformed one is not."""
        for field in (*RIGHT, *VECTORS):
            check_form(field)
        for field in WRONG:
            error = self.assertRaises(ValueError, check_form, field)
            self.assertNotIsInstance(error, UnknownScheme)

    def test_unknown(self):
        """An unknown scheme is refused."""
        self.assertRaises(UnknownScheme, check_form, b"{ROT13}x")

    def test_unavailable(self):
        """So is one whose library is missing."""
        from popserv.auth.passwords import schemes

        self.patch(schemes, "argon2", None)
        self.assertRaises(SchemeUnavailable, check_form, RIGHT[-1])

    def test_once(self):
        """A method of crypt is tried once for each cost."""
        tried = []
        self.patch(secret_forms, "verify", lambda field, password: tried.append(field))
        self.patch(secret_forms, "_seen", set())
        for field in (SHA512, SHA512.replace(b"abc", b"xyz"), b"$6$rounds=9$abc$" + b"x" * 86):
            check_form(field)
        self.assertEqual(len(tried), 2)

    def test_yescrypt(self):
        """Secrets of yescrypt are whole, whether this system supports them or not."""
        self.patch(secret_forms, "verify", lambda field, password: None)
        check_form(YESCRYPT)
        self.assertRaises(ValueError, check_form, YESCRYPT[:-1])

    def test_no_hash(self):
        """Of secrets that are expensive to hash only the form is looked at."""
        self.patch(secret_forms, "verify", lambda field, password: self.fail(field))
        for field in VECTORS:
            if field.startswith((b"{SCRAM", b"{ARGON2", b"{PBKDF2")):
                check_form(field)

    def test_weak(self):
        """Weak schemes are named, also those of crypt(3)."""
        self.assertLess(WEAK_SCHEMES, SCHEMES.keys())
        for field, name in (
            (SHA512, ""),
            (join_field(b"SSHA", b"x"), "SSHA"),
            (b"$1$abc$" + b"x" * 22, "MD5-CRYPT"),
            (b"{CRYPT}" + b"x" * 13, "DES-CRYPT"),
            (b"{PLAIN}x", ""),
            (YESCRYPT, ""),
            (new_scram_sha256(b"x", 1), ""),
        ):
            self.assertEqual(weakness_of(field), name)
