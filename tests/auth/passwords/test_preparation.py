"""Tests of popserv.auth.passwords.preparation: the examples of RFC 8265 section 4."""

import unicodedata

from hypothesis import example, given
from twisted.trial.unittest import SynchronousTestCase

from popserv.auth import precis
from popserv.auth.passwords.preparation import candidate_passwords, prepared_password
from tests.auth.test_precis import NOT_UTF8, OCTETS, TEXT, LibraryCase

# Passwords and the prepared passwords, or None if the profile rejects the password.
PASSWORDS = {
    # The examples of RFC 8265 section 4; example 6 is the empty password.
    "correct horse battery staple": "correct horse battery staple",
    "Correct Horse Battery Staple": "Correct Horse Battery Staple",
    "\u03c0\xdf\xe5": "\u03c0\xdf\xe5",
    "Jack of \u2666s": "Jack of \u2666s",
    "foo\u1680bar": "foo bar",
    "my cat is a \x09by": None,
    "my c\xe4t is a \x09by": None,
    "": None,
    # Examples of RFC 4013 section 3, for which RFC 8265 may have other results.
    "user": "user",
    "USER": "USER",
    "\x07": None,
    "\xe4\x07": None,
    "\u0627\x31": "\u0627\x31",
    "I\xadX": None,
    "\xaa": "\xaa",
    "\u2168": "\u2168",
    # Other spellings of a password.
    "gru\u0308n": "gr\xfcn",
    "gr\xfcn": "gr\xfcn",
    "gr\xfcn\xa0\u3000x": "gr\xfcn  x",
    "\u212b": "\xc5",
    "\uff30\uff37": "\uff30\uff37",
}


class PasswordTests(SynchronousTestCase):
    """candidate_passwords and prepared_password (RFC 8265 section 4)."""

    def test_examples(self):
        """The candidates are the prepared password, if there is one, and the one sent."""
        for password, prepared in PASSWORDS.items():
            octets = password.encode()
            first = octets if prepared is None else prepared.encode()
            expected = [first] if first == octets else [first, octets]
            self.assertEqual(candidate_passwords(octets), expected, ascii(password))
            self.assertEqual(prepared_password(octets), first, ascii(password))

    def test_not_utf8(self):
        """A password that is not UTF-8 is first verified as sent."""
        for password in NOT_UTF8:
            self.assertEqual(candidate_passwords(password)[0], password)
            self.assertEqual(prepared_password(password), password)

    def test_latin1(self):
        """It is then read as Latin-1, unless it has control characters."""
        for password, reading in (
            (b"gr\xfcn", "gr\xfcn"),
            (b"\xc4\xa0x\xe9", "\xc4 x\xe9"),
            (b"pass\xa0w\xf6rt", "pass w\xf6rt"),
            (b"\xff", "\xff"),
        ):
            self.assertEqual(candidate_passwords(password), [password, reading.encode()])
        for password in (b"\x80", b"gr\xfcn\x9f", b"gr\xfcn\0", b"\xfc\xad"):
            self.assertEqual(candidate_passwords(password), [password])

    @given(OCTETS)
    @example("\u0344".encode())
    def test_candidates(self, password):
        """There are one or two different candidates, among them the password as sent."""
        candidates = candidate_passwords(password)
        self.assertIn(len(candidates), (1, 2))
        self.assertEqual(len(set(candidates)), len(candidates))
        self.assertIn(password, candidates)
        self.assertEqual(candidate_passwords(password), candidates)
        if password.isascii():
            self.assertEqual(candidates, [password])

    @given(OCTETS)
    def test_idempotent(self, password):
        """Preparation is idempotent, and its result is the first candidate."""
        prepared = prepared_password(password)
        self.assertEqual(prepared_password(prepared), prepared)
        self.assertEqual(candidate_passwords(prepared)[0], prepared)
        self.assertEqual(candidate_passwords(password)[0], prepared)

    @given(TEXT)
    def test_spellings(self, text):
        """A new secret matches the composed and the decomposed spelling of the password."""
        text = text[:20]
        stored = prepared_password(text.encode())
        if stored != text.encode():
            for form in ("NFC", "NFD"):
                typed = unicodedata.normalize(form, text).encode()
                self.assertIn(stored, candidate_passwords(typed))


class LibraryTests(LibraryCase):
    """Passwords without precis-i18n."""

    def test_missing(self):
        """Without the library passwords are not prepared, but may still be read as Latin-1."""
        with self.without_library():
            for password in [*NOT_UTF8, *map(str.encode, PASSWORDS)]:
                self.assertEqual(candidate_passwords(password)[0], password)
                self.assertEqual(prepared_password(password), password)
            expected = [b"gr\xfcn", "gr\xfcn".encode()]
            self.assertEqual(candidate_passwords(b"gr\xfcn"), expected)

    def test_ascii(self):
        """The library is not called for an ASCII password."""
        self.patch(precis, "_PROFILES", None)
        self.assertEqual(candidate_passwords(b"ascii"), [b"ascii"])
