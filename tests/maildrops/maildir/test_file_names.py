"""popserv.maildrops.maildir.file_names: base names, info suffixes and flags."""

import string

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.maildir.file_names import (
    has_flag,
    may_have_other_info,
    octets_in_name,
    other_base_name,
    split_name,
)

NAMES = {
    b"1.a": (b"1.a", b""),
    b"1.a:2,": (b"1.a", b":2,"),
    b"1.a:2,FS": (b"1.a", b":2,FS"),
    b"1.a:1,x": (b"1.a", b":1,x"),
    b"1.a:": (b"1.a", b":"),
    b"1.a:2,S:2,F": (b"1.a", b":2,S:2,F"),
    b"1.a;2,": (b"1.a", b";2,"),
    b"1.a;2,FSab": (b"1.a", b";2,FSab"),
    b"1.a!2,S": (b"1.a", b"!2,S"),
    b"1.a,S=3,W=4;2,S": (b"1.a,S=3,W=4", b";2,S"),
    b";2,S": (b"", b";2,S"),
    b":2,S": (b"", b":2,S"),
    b":a;2,S": (b"", b":a;2,S"),
    # The last one is the suffix, and all before it does not change with the flags.
    b"1.a;2,F;2,S": (b"1.a;2,F", b";2,S"),
    b"1.a!2,F;2,S": (b"1.a!2,F", b";2,S"),
    b"1.a;2,S:2,F": (b"1.a;2,S", b":2,F"),
    # These are base names.
    b"1.a;b!c": (b"1.a;b!c", b""),
    b"1.a;2": (b"1.a;2", b""),
    b"1.a;1,S": (b"1.a;1,S", b""),
    b"1.a;3,S": (b"1.a;3,S", b""),
    b"1.a_2,S": (b"1.a_2,S", b""),
    b"1.a;2,S=9": (b"1.a;2,S=9", b""),
    b"1.a;2,S.host": (b"1.a;2,S.host", b""),
    b"1.a;2,S\n": (b"1.a;2,S\n", b""),
    b"1.a;2,S ": (b"1.a;2,S ", b""),
    b"": (b"", b""),
}


def naive_split(name):
    """Return the base name and the info suffix, computed in the plainest way."""
    if b":" in name:
        at = name.index(b":")
        return name[:at], name[at:]
    letters = string.ascii_letters.encode("ascii")
    for at in range(len(name)):
        is_info = name[at : at + 3] in (b";2,", b"!2,")
        if is_info and all(letter in letters for letter in name[at + 3 :]):
            return name[:at], name[at:]
    return name, b""


class SplitTests(SynchronousTestCase):
    """A file name is a base name and an info suffix."""

    def test_names(self):
        """The names of the table are split as it says."""
        for name, parts in NAMES.items():
            self.assertEqual((split_name(name), naive_split(name)), (parts, parts), name)

    @given(st.lists(st.sampled_from([b"1", b"2", b",", b";", b"!", b":", b"S", b";2,", b"\n"])))
    def test_any_name(self, parts):
        """Any name is split as by a naive implementation."""
        name = b"".join(parts)
        base_name, suffix = split_name(name)
        self.assertEqual((base_name, suffix), naive_split(name))
        self.assertEqual(base_name + suffix, name)
        if suffix[:1] in (b";", b"!"):
            self.assertTrue(may_have_other_info(b"1.a\0" + name))

    def test_flags(self):
        """Flags are letters after an info suffix with the number 2."""
        for suffix in (b":2,FS", b";2,S", b"!2,RS"):
            self.assertTrue(has_flag(suffix, b"S"), suffix)
            self.assertFalse(has_flag(suffix, b"T"), suffix)
        for suffix in (b"", b":2,", b":1,S", b":S", b";1,S", b",2,S"):
            self.assertFalse(has_flag(suffix, b"S"), suffix)

    def test_octets(self):
        """The octets of the file are the field S (Maildir++), at the end or before another."""
        for name, octets in {
            b"1.a,S=12": 12,
            b"1.a,S=12,W=13": 12,
            b"1.a,W=13,S=012": 12,
            b"1.a,W=13": None,
            b"1.a,S=": None,
            b"1.a,S=12x": None,
            b"1.a,S=-1": None,
            b"1.aS=1": None,
            b"1.a,S=" + b"9" * 19: None,
        }.items():
            self.assertEqual(octets_in_name(name), octets, name)

    def test_other_base_name(self):
        """Another base name keeps the time, the host and the fields, and starts with no dot."""
        for name, other in {
            b"1.a": b"1.Rx",
            b"1.a.host": b"1.Rx.host",
            b"1.a.host.org,S=2,W=3": b"1.Rx.host.org,S=2,W=3",
            b"1.a,S=2.5": b"1.Rx,S=2.5",
            b"1": b"1.Rx",
            b".a": b"0.Rx",
            b",S=2": b"0.Rx,S=2",
        }.items():
            self.assertEqual(other_base_name(name, b"x"), other, name)
