"""popserv.maildrops.sql.flags: flags as numbers."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.sql.flags import flags_in, number_of
from popserv.messages.details import Flags

BITS = "SEEN", "ANSWERED", "FLAGGED", "DELETED", "DRAFT", "FORWARDED"
"""The flags in the order of their bits, which databases have."""


class FlagsTests(SynchronousTestCase):
    """The number of a message stands for its flags."""

    def test_numbers(self):
        """Each flag is a bit, which never changes."""
        self.assertEqual(number_of(Flags.NONE), 0)
        numbers = {flag.name: number_of(flag) for flag in Flags}
        self.assertEqual(numbers, {name: 1 << bit for bit, name in enumerate(BITS)})

    @given(st.integers(0, 63), st.integers(0, 255))
    def test_inverse(self, number, unknown):
        """A number is that of its flags; bits that are none are left out."""
        self.assertEqual(number_of(flags_in(number | unknown << 6)), number)
