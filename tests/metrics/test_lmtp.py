"""Connections of --lmtp that count deliveries."""

import errno

from popserv.delivery.lmtp import LMTPServer
from popserv.delivery.outcomes import reply_to
from popserv.errors import DeliveryRefused, TryLater, UnknownRecipient
from popserv.metrics import catalogue
from popserv.metrics.instruments import Instruments
from popserv.metrics.lmtp import _OUTCOMES
from tests.delivery.harness import LMTPCase


class LMTPTests(LMTPCase):
    """MeasuredLMTPServer."""

    def make_factory(self, **settings):
        """Return a factory whose deliveries are counted."""
        self.instruments = Instruments()
        factory = super().make_factory(**settings)
        self.instruments.measure_lmtp(factory)
        return factory

    def counted(self, metric):
        """Return the values of a counter that are not 0."""
        values = self.instruments.counters.values(metric)
        return {labels: value for labels, value in values.items() if value}

    def test_outcomes(self):
        """Each recipient of a message counts, with the outcome, and the octets if it got them."""
        for error, outcome in (
            (UnknownRecipient(), "unknown-user"),
            (OSError(errno.EDQUOT, "quota"), "full"),
            (OSError(errno.ENOSPC, "full"), "full"),
            (DeliveryRefused("x"), "refused"),
            (TryLater(), "temporary"),
        ):
            self.client = self.connect(self.make_factory())
            self.assertIsInstance(self.client.protocol, LMTPServer)
            self.store.errors = {b"bob": error}
            self.begin(b"ann", b"bob")
            self.client.send(b"x\r\n.\r\n")
            self.assertEqual(self.counted(catalogue.DELIVERED), {("delivered",): 1, (outcome,): 1})
            self.assertEqual(self.counted(catalogue.DELIVERED_BYTES), {(): 3})
            seconds = self.instruments.counters.samples[catalogue.DELIVERY_SECONDS.name][()]
            self.assertEqual(sum(seconds[:-1]), 2)
        self.assertEqual(set(_OUTCOMES.values()), set(catalogue.DELIVERIES))

    def test_all_replies(self):
        """There is an outcome for whatever a delivery raises."""
        for error in (
            *(UnknownRecipient(), DeliveryRefused("x"), OSError()),
            *(OSError(code, "full") for code in (errno.EDQUOT, errno.ENOSPC)),
        ):
            self.assertIn(reply_to(error), _OUTCOMES)
