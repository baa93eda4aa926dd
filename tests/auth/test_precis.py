"""Tests of popserv.auth.precis."""

import runpy
import sys
from unittest import mock

from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.auth import precis
from popserv.auth.names import prepared_name
from popserv.auth.passwords.preparation import candidate_passwords
from popserv.auth.precis import MAX_OCTETS, enforce, is_available

NOT_UTF8 = [b"gr\xfcn", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\xaf", b"ann\x80"]

# Characters with special rules, old enough that all versions of Python agree on them.
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


class BoundTests(SynchronousTestCase):
    """The limit on the length of texts."""

    def test_limit(self):
        """Text of up to MAX_OCTETS octets is prepared; longer text stays unchanged."""
        decomposed = "u\u0308".encode()
        text = decomposed * (MAX_OCTETS // len(decomposed))
        self.assertEqual(len(text), MAX_OCTETS)
        composed = "\xfc".encode() * (MAX_OCTETS // len(decomposed))
        self.assertEqual(prepared_name(text), composed)
        self.assertEqual(candidate_passwords(text), [composed, text])
        self.assertEqual(prepared_name(text + b"x"), text + b"x")
        self.assertEqual(prepared_name("u\u0308@".encode() + text), "u\u0308@".encode() + text)
        parts = "\ufb2f@".encode() + b"x" * (MAX_OCTETS - 4)
        self.assertEqual(prepared_name(parts), "\u05d0\u05b8@".encode() + parts[4:])
        self.assertEqual(prepared_name(parts + b"x"), parts + b"x")
        self.assertEqual(candidate_passwords(text + b"x"), [text + b"x"])
        latin = b"\xfc" * MAX_OCTETS
        self.assertEqual(candidate_passwords(latin), [latin])

    def test_longer(self):
        """Longer text is not passed to the library, which would need hours for many middle dots."""
        profile = mock.Mock(enforce=mock.Mock(side_effect=ValueError))
        self.patch(precis, "_PROFILES", dict.fromkeys(precis._PROFILES, profile))
        dots = "\u30fb" * 100_000 + "\u30ab"
        for text in (dots, f"{dots}@{dots}", f"\u30ab@{dots}", f"{dots}@\u30ab"):
            self.assertEqual(prepared_name(text.encode()), text.encode())
            self.assertEqual(candidate_passwords(text.encode()), [text.encode()])
        profile.enforce.assert_not_called()


class LibraryCase(SynchronousTestCase):
    """Tests with and without precis-i18n."""

    def without_library(self):
        """Return a context in which precis-i18n is not installed."""
        with mock.patch.dict(sys.modules, {"precis_i18n": None}):
            profiles = runpy.run_path(precis.__file__)["_PROFILES"]
        return mock.patch.object(precis, "_PROFILES", profiles)


class LibraryTests(LibraryCase):
    """Without precis-i18n text is returned unchanged."""

    def test_available(self):
        """is_available tells whether the library is installed."""
        self.assertIs(is_available(), True)
        with self.without_library():
            self.assertIs(is_available(), False)

    def test_missing(self):
        """Without the library each text is returned as it is."""
        with self.without_library():
            for text in ("", "gru\u0308n", "\x07", "\xe4\x07", "\u2163"):
                for profile in ("OpaqueString", "UsernameCasePreserved"):
                    self.assertEqual(enforce(profile, text), text.encode())

    def test_ascii(self):
        """The library is not called for ASCII text."""
        self.patch(precis, "_PROFILES", None)
        self.assertEqual(enforce("OpaqueString", "ascii"), b"ascii")
        self.assertEqual(enforce("UsernameCasePreserved", "ascii"), b"ascii")
