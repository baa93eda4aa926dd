"""Names and passwords as Unicode, against the RFCs' own examples."""

import sys
import unicodedata
from unittest import mock

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.auth import precis
from popserv.auth.precis import (
    LONGEST,
    is_available,
    password_forms,
    prepared_name,
    prepared_password,
)

# What came, and what is made of it; None if it is taken as it came since the RFC refuses it.
PASSWORDS = {
    # RFC 8265 section 4, its table of examples; example 6 is the empty one.
    "correct horse battery staple": "correct horse battery staple",
    "Correct Horse Battery Staple": "Correct Horse Battery Staple",
    "\u03c0\xdf\xe5": "\u03c0\xdf\xe5",
    "Jack of \u2666s": "Jack of \u2666s",
    "foo\u1680bar": "foo bar",
    "my cat is a \x09by": None,
    "my c\xe4t is a \x09by": None,
    "": None,
    # RFC 4013 section 3, examples 2, 3, 6 and 7; of 1, 4 and 5 RFC 8265 thinks otherwise.
    "user": "user",
    "USER": "USER",
    "\x07": None,
    "\xe4\x07": None,
    "\u0627\x31": "\u0627\x31",
    "I\xadX": None,
    "\xaa": "\xaa",
    "\u2168": "\u2168",
    # Spellings of one word.
    "gru\u0308n": "gr\xfcn",
    "gr\xfcn": "gr\xfcn",
    "gr\xfcn\xa0\u3000x": "gr\xfcn  x",
    "\u212b": "\xc5",
    "\uff30\uff37": "\uff30\uff37",
}

NAMES = {
    # RFC 8265 section 3, its tables of examples; here they keep their case.
    "juliet@example.com": "juliet@example.com",
    "fussball": "fussball",
    "fu\xdfball": "fu\xdfball",
    "\u03c0": "\u03c0",
    "\u03a3": "\u03a3",
    "\u03c3": "\u03c3",
    "\u03c2": "\u03c2",
    "foo bar": None,
    "f\xf6\xf6 bar": None,
    "": None,
    "henry\u2163": None,
    "\u221e": None,
    # Spellings of one name.
    "gru\u0308n": "gr\xfcn",
    "gru\u0308n@exa\u0308mple.com": "gr\xfcn@ex\xe4mple.com",
    "\uff41\uff4e\uff4e": "ann",
    "\uff76\uff9e": "\u30ac",
    # Refused as a whole, but for one part or both.
    "\u05d0\u05d1@example.com": "\u05d0\u05d1@example.com",
    "\ufb2f@example.com": "\u05d0\u05b8@example.com",
    "\u05d0\u05d1@exa\u0308mple.com": "\u05d0\u05d1@ex\xe4mple.com",
    "gru\u0308n@\u2163.example": "gr\xfcn@\u2163.example",
    "gru\u0308n@exa\u0308 mple": "gr\xfcn@exa\u0308 mple",
    "gru\u0308 n@exa\u0308mple": None,
    "henry\u2163@exa\u0308mple": None,
    "gru\u0308n@": "gr\xfcn@",
    "@gru\u0308n": "@gr\xfcn",
    "@\ufb2f": "@\u05d0\u05b8",
    "gru\u0308n@\u2163@x": None,
    # As a path or a line of a file it would be another one.
    "\uff0e\uff0e\uff0fann": "../ann",
    "ann\uff1a\xe4": "ann:\xe4",
}

NOT_UTF8 = [b"gr\xfcn", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\xaf", b"ann\x80"]

# Old characters on which the rules turn, so that every Python knows them alike.
TEXT = st.one_of(
    st.text(
        "aA1 @.-\t\0\xe4\xaa\xad\xb7l\xdf\u0301\u0308\u0338\u0323\u0627\u0661\u05d0\u05d1\u05b8"
        "\ufb2f"
        "\u03c2\u03a3\u0375\u1680\u3000\u30fb\u30ab\uff76\uff9e\uff21\uff20\uff0f\uff0e\u200c\u200d"
        "\u094d\u2163\u221e\u212b\u1100\u1161\u11a8\uac00\ud7a3\U0001d160\u0958\ufffd\ufffe"
    ),
    st.text(st.characters(exclude_categories=["Cs", "Cn", "Co"], max_codepoint=0x2FFF)),
)
OCTETS = st.one_of(st.binary(), TEXT.map(str.encode))


class PasswordTests(SynchronousTestCase):
    """password_forms and prepared_password (RFC 8265 section 4)."""

    def test_examples(self):
        """The RFCs' examples: prepared first, then as it came; what is refused, as it came."""
        for came, prepared in PASSWORDS.items():
            octets = came.encode()
            first = octets if prepared is None else prepared.encode()
            expected = [first] if first == octets else [first, octets]
            self.assertEqual(password_forms(octets), expected, ascii(came))
            self.assertEqual(prepared_password(octets), first, ascii(came))

    def test_not_utf8(self):
        """What is no UTF-8 is taken as it came, first of all."""
        for password in NOT_UTF8:
            self.assertEqual(password_forms(password)[0], password)
            self.assertEqual(prepared_password(password), password)

    def test_latin1(self):
        """Or as Latin-1 afterwards, where that makes a word; C1 controls make none."""
        for password, reading in (
            (b"gr\xfcn", "gr\xfcn"),
            (b"\xc4\xa0x\xe9", "\xc4 x\xe9"),
            (b"pass\xa0w\xf6rt", "pass w\xf6rt"),
            (b"\xff", "\xff"),
        ):
            self.assertEqual(password_forms(password), [password, reading.encode()])
        for password in (b"\x80", b"gr\xfcn\x9f", b"gr\xfcn\0", b"\xfc\xad"):
            self.assertEqual(password_forms(password), [password])

    @given(OCTETS)
    @example("\u0344".encode())
    def test_forms(self, password):
        """There are one or two, all different, one of them as it came, and the same each time."""
        forms = password_forms(password)
        self.assertIn(len(forms), (1, 2))
        self.assertEqual(len(set(forms)), len(forms))
        self.assertIn(password, forms)
        self.assertEqual(password_forms(password), forms)
        if password.isascii():
            self.assertEqual(forms, [password])

    @given(OCTETS)
    def test_idempotent(self, password):
        """A prepared password is prepared; and it is what a login tries first."""
        prepared = prepared_password(password)
        self.assertEqual(prepared_password(prepared), prepared)
        self.assertEqual(password_forms(prepared)[0], prepared)
        self.assertEqual(password_forms(password)[0], prepared)

    @given(TEXT)
    def test_spellings(self, text):
        """A new secret is opened by the composed and by the decomposed spelling."""
        text = text[:20]
        stored = prepared_password(text.encode())
        if stored != text.encode():
            for form in ("NFC", "NFD"):
                typed = unicodedata.normalize(form, text).encode()
                self.assertIn(stored, password_forms(typed))


class NameTests(SynchronousTestCase):
    """prepared_name (RFC 8265 section 3)."""

    def test_examples(self):
        """The RFCs' examples, and what is refused, which is taken as it came."""
        for came, prepared in NAMES.items():
            octets = came.encode()
            expected = octets if prepared is None else prepared.encode()
            self.assertEqual(prepared_name(octets), expected, ascii(came))

    def test_not_utf8(self):
        """What is no UTF-8 is taken as it came."""
        for name in NOT_UTF8:
            self.assertEqual(prepared_name(name), name)

    @given(OCTETS)
    def test_idempotent(self, name):
        """A prepared name is prepared, and ASCII is never touched."""
        prepared = prepared_name(name)
        self.assertEqual(prepared_name(prepared), prepared)
        if name.isascii():
            self.assertEqual(prepared, name)

    @given(TEXT, TEXT)
    def test_parts(self, local, host):
        """Two names with an @ between them are prepared to such names, too."""
        name = f"{local}@{host}".encode()
        prepared = prepared_name(name)
        self.assertEqual(prepared_name(prepared), prepared)
        self.assertIn(b"@", prepared)


class BoundTests(SynchronousTestCase):
    """What a stranger may send costs little."""

    def test_longest(self):
        """Text of up to LONGEST octets is prepared, longer text taken as it came."""
        decomposed = "u\u0308".encode()
        text = decomposed * (LONGEST // len(decomposed))
        self.assertEqual(len(text), LONGEST)
        composed = "\xfc".encode() * (LONGEST // len(decomposed))
        self.assertEqual(prepared_name(text), composed)
        self.assertEqual(password_forms(text), [composed, text])
        self.assertEqual(prepared_name(text + b"x"), text + b"x")
        self.assertEqual(prepared_name("u\u0308@".encode() + text), "u\u0308@".encode() + text)
        self.assertEqual(password_forms(text + b"x"), [text + b"x"])
        latin = b"\xfc" * LONGEST
        self.assertEqual(password_forms(latin), [latin])

    def test_nothing_longer(self):
        """The library sees nothing longer, of which middle dots would take it hours."""
        profile = mock.Mock(enforce=mock.Mock(side_effect=ValueError))
        self.patch(precis, "_profile", lambda name: profile)
        dots = "\u30fb" * 100_000 + "\u30ab"
        for text in (dots, f"{dots}@{dots}", f"\u30ab@{dots}", f"{dots}@\u30ab"):
            self.assertEqual(prepared_name(text.encode()), text.encode())
            self.assertEqual(password_forms(text.encode()), [text.encode()])
        profile.enforce.assert_not_called()


class LibraryTests(SynchronousTestCase):
    """Without precis-i18n every text is taken as it came."""

    def setUp(self):
        """Look for the library anew in and after each test."""
        precis._profile.cache_clear()
        self.addCleanup(precis._profile.cache_clear)

    def test_available(self):
        """is_available says whether it is there."""
        self.assertIs(is_available(), True)

    def test_missing(self):
        """Nothing is prepared, but Latin-1 can still be read."""
        with mock.patch.dict(sys.modules, {"precis_i18n": None}):
            self.assertIs(is_available(), False)
            for octets in [*NOT_UTF8, *map(str.encode, PASSWORDS), *map(str.encode, NAMES)]:
                self.assertEqual(password_forms(octets)[0], octets)
                self.assertEqual(prepared_password(octets), octets)
                self.assertEqual(prepared_name(octets), octets)
            expected = [b"gr\xfcn", "gr\xfcn".encode()]
            self.assertEqual(password_forms(b"gr\xfcn"), expected)

    def test_lazily(self):
        """It is not imported for ASCII."""
        self.patch(precis, "_profile", self.fail)
        self.assertEqual(password_forms(b"ascii"), [b"ascii"])
        self.assertEqual(prepared_name(b"ascii"), b"ascii")
