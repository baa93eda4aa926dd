"""The limit of the octets of a message, which stores of message files have."""

from popserv.errors import MessageTooLarge
from popserv.maildrops import spooling
from popserv.messages.details import NO_DETAILS
from popserv.testing.delivery_contract import body_of
from tests.maildrops.maildir.harness import result


class LimitMixin:
    """Tests of ``maildrops``, whose unique-ids ``uids`` returns."""

    def test_too_large(self):
        """A message that no session would read is refused, and others are delivered."""
        self.patch(spooling, "MAX_MESSAGE", 4)
        delivery = result(self.maildrops.open_delivery(b"ann"))
        result(delivery.deliver(b"a", NO_DETAILS, body_of(b"123\n")))
        with self.assertRaises(MessageTooLarge):
            result(delivery.deliver(b"b", NO_DETAILS, body_of(b"1234\n")))
        result(delivery.commit())
        result(delivery.release())
        self.assertEqual(self.uids(), [b"a"])
