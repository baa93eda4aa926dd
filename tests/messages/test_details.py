"""popserv.messages.details: what is known of a message of which nothing is known."""

from twisted.trial.unittest import SynchronousTestCase

from popserv.messages.details import NO_DETAILS, Flags, MessageDetails


class DetailsTests(SynchronousTestCase):
    """MessageDetails."""

    def test_nothing_known(self):
        """There is no time of delivery, and no flag."""
        self.assertEqual(NO_DETAILS, MessageDetails(0, Flags.NONE))
        self.assertFalse(NO_DETAILS.delivered)
        self.assertFalse(NO_DETAILS.flags)
