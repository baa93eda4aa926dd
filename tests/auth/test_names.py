"""Tests of popserv.auth.names: valid names, and the examples of RFC 8265 section 3."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.auth import precis
from popserv.auth.names import (
    CaseInsensitiveNames,
    check_name,
    prepared_name,
    readings,
    with_domain,
    with_folder,
)
from tests.auth.test_precis import NOT_UTF8, OCTETS, TEXT, LibraryCase

BAD_NAMES = b"|.|..|.users|#ann|a:b|a b|a/b|/|a\tb|a\nb|a\rb|a\0b|\x7f|a\x7f| a|ann\n".split(b"|")

NAMES = {
    # The examples of RFC 8265 section 3, whose case is preserved here.
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
    # Other spellings of a name.
    "gru\u0308n": "gr\xfcn",
    "gru\u0308n@exa\u0308mple.com": "gr\xfcn@ex\xe4mple.com",
    "\uff41\uff4e\uff4e": "ann",
    "\uff76\uff9e": "\u30ac",
    # Rejected as a whole; one part or both are accepted.
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
    # The result has other components as a path, or other fields in the users file.
    "\uff0e\uff0e\uff0fann": "../ann",
    "ann\uff1a\xe4": "ann:\xe4",
}


class CheckNameTests(SynchronousTestCase):
    """check_name."""

    def test_valid(self):
        """A valid name can be a field of the users file and the name of a directory."""
        for name in (b"ann", b"a", b"ann@example.org", b"\xff", "jürgen".encode(), b"a#.b", b"%u"):
            check_name(name)
        for name in BAD_NAMES:
            error = self.assertRaises(ValueError, check_name, name)
            self.assertIn("is not a valid user name", str(error))


class NameTests(SynchronousTestCase):
    """prepared_name (RFC 8265 section 3)."""

    def test_examples(self):
        """Names of the RFCs' examples are prepared; rejected names stay unchanged."""
        for name, prepared in NAMES.items():
            octets = name.encode()
            expected = octets if prepared is None else prepared.encode()
            self.assertEqual(prepared_name(octets), expected, ascii(name))

    def test_not_utf8(self):
        """A name that is not UTF-8 stays unchanged."""
        for name in NOT_UTF8:
            self.assertEqual(prepared_name(name), name)

    @given(OCTETS)
    def test_idempotent(self, name):
        """Preparation is idempotent, and leaves ASCII names unchanged."""
        prepared = prepared_name(name)
        self.assertEqual(prepared_name(prepared), prepared)
        if name.isascii():
            self.assertEqual(prepared, name)

    @given(TEXT, TEXT)
    def test_parts(self, local, host):
        """A name with @ still has an @ after preparation."""
        name = f"{local}@{host}".encode()
        prepared = prepared_name(name)
        self.assertEqual(prepared_name(prepared), prepared)
        self.assertIn(b"@", prepared)


class LibraryTests(LibraryCase):
    """prepared_name without precis-i18n."""

    def test_missing(self):
        """Without the library names are not prepared."""
        with self.without_library():
            for name in [*NOT_UTF8, *map(str.encode, NAMES)]:
                self.assertEqual(prepared_name(name), name)

    def test_ascii(self):
        """The library is not called for an ASCII name."""
        self.patch(precis, "_PROFILES", None)
        self.assertEqual(prepared_name(b"ascii"), b"ascii")


class CaseInsensitiveNamesTests(SynchronousTestCase):
    """CaseInsensitiveNames."""

    def test_find(self):
        """The name as sent counts first, then the only one that differs in ASCII case."""
        names = CaseInsensitiveNames([b"ann", b"Bob", b"CID", b"cid", "é".encode(), b"\xff"])
        for spellings, found in (
            ([b"ann"], b"ann"),
            ([b"ANN"], b"ann"),
            ([b"BOB", b"bob"], b"Bob"),
            ([b"cid"], b"cid"),
            ([b"Cid"], None),
            ([b"ANN", b"bOB"], None),
            ([b"x", b"ANN"], b"ann"),
            (["É".encode()], None),
            ([b"\xff"], b"\xff"),
            ([b""], None),
            ([], None),
        ):
            self.assertEqual(names.find(*spellings), found, spellings)


class DomainTests(SynchronousTestCase):
    """with_domain."""

    def test_domain(self):
        """A domain is added to a name without @ that is not empty."""
        for name, domain, expected in (
            (b"ann", b"example.org", b"ann@example.org"),
            (b"ann@example.net", b"example.org", b"ann@example.net"),
            (b"ann@", b"example.org", b"ann@"),
            (b"", b"example.org", b""),
            (b"ann", b"", b"ann"),
        ):
            self.assertEqual(with_domain(name, domain), expected)


class FolderTests(SynchronousTestCase):
    """Names with a folder."""

    def test_readings(self):
        """The name itself is first, then it is cut at the last and at the first delimiter."""
        for name, others in (
            (b"ann", []),
            (b"ann+", []),
            (b"+Lists", []),
            (b"+", []),
            (b"", []),
            (b"ann-Lists", []),
            (b"ann+Lists", [(b"ann", b"Lists")]),
            (b"ann+Lists@example.org", [(b"ann@example.org", b"Lists")]),
            (b"ann@example+x.org", []),
            (b"ann+@example.org", []),
            (b"+Lists@example.org", []),
            (b"ann+a@b@example.org", [(b"ann@example.org", b"a@b")]),
            (b"ann+b+c", [(b"ann+b", b"c"), (b"ann", b"b+c")]),
            (b"ann+b+c+d@x", [(b"ann+b+c@x", b"d"), (b"ann@x", b"b+c+d")]),
            (b"ann++b", [(b"ann+", b"b"), (b"ann", b"+b")]),
            (b"ann+b+", [(b"ann", b"b+")]),
            (b"ann+" + b"x+" * 100 + b"y", [(b"ann+" + b"x+" * 99 + b"x", b"y"), None]),
        ):
            found = [*readings(name, b"+")]
            self.assertEqual(found.pop(0), (name, b""))
            self.assertEqual(found[: len(others)], [each or found[-1] for each in others])
            self.assertEqual(len(found), len(others))

    def test_no_delimiter(self):
        """Without a delimiter, a name has no folder."""
        self.assertEqual([*readings(b"ann+Lists@x", b"")], [(b"ann+Lists@x", b"")])

    @given(st.text("a+@").map(str.encode))
    def test_round_trip(self, name):
        """Each reading is one of the name, and its parts are not empty."""
        for user, folder in [*readings(name, b"+")][1:]:
            self.assertTrue(user and folder)
            self.assertEqual(with_folder(user, b"+", folder), name)
