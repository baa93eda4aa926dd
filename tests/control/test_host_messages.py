"""popserv.control.host_messages: requests to hosts, and their answers, as texts."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.protocols import amp
from twisted.trial.unittest import SynchronousTestCase

from popserv.control.host_messages import decode_box, decode_part, encode_box, encode_part

boxes = st.dictionaries(st.text().map(str.encode), st.binary()).map(amp.AmpBox)


class MessageTests(SynchronousTestCase):
    """What is decoded is what was encoded, or an error."""

    @given(boxes, st.booleans())
    def test_round_trip(self, box, more):
        """A box comes back, whatever its values, and so does a part of an answer."""
        self.assertEqual(decode_box(encode_box(box)), box)
        self.assertEqual(decode_part(encode_part(box, more=more)), (box, more))

    def test_invalid(self):
        """Another value is no box, and another text is no answer."""
        for value in (None, [], "text", {"x": 1}):
            self.assertRaises(ValueError, decode_box, value)
        for text in ("", "[]", "{}", '{"box": 1, "more": 1}', '{"box": {}}'):
            self.assertRaises(ValueError, decode_part, text)
