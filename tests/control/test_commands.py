"""The commands of the control socket."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.protocols import amp
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from popserv.control.commands import JSON

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


class JSONTests(SynchronousTestCase):
    """An argument that is a JSON value."""

    def test_interface(self):
        """It is an argument type of AMP."""
        verifyObject(amp.IArgumentType, JSON())

    @given(VALUES)
    def test_round_trip(self, value):
        """A value arrives as it was sent."""
        self.assertEqual(JSON().fromString(JSON().toString(value)), value)

    def test_invalid(self):
        """What is no JSON is a ValueError."""
        for octets in (b"", b"{", b"\xff"):
            with self.assertRaises(ValueError):
                JSON().fromString(octets)
