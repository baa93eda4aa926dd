"""Connections of --lmtp that count deliveries."""

import errno
from unittest import mock

from popserv.delivery import lmtp
from popserv.delivery.lmtp import LMTPServer
from popserv.delivery.outcomes import reply_to
from popserv.errors import DeliveryRefused, MessageTooLarge, TryLater, UnknownRecipient
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
            (MessageTooLarge("x"), "over-limit"),
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

    def test_refused_recipients(self):
        """A recipient counts that RCPT refuses, and so does a message that MAIL refuses, once."""

        async def has_maildrop(user, settings):
            if user == b"away":
                raise TryLater
            return user in self.store.stored

        self.patch(self.store, "has_maildrop", has_maildrop)
        self.client = self.connect(self.make_factory(max_octets=100))
        for line, outcome in (
            (b"MAIL FROM:<sam>x", "invalid"),
            (b"MAIL FROM:<sam> RET=HDRS", "invalid"),
            (b"MAIL FROM:<sam> SIZE=101", "over-limit"),
            (b"MAIL FROM:<sam> SIZE=100", None),
            (b"MAIL FROM:<sam>", None),
            (b"RCPT TO:<ann>", None),
            (b"RCPT TO:<nobody>", "unknown-user"),
            (b"RCPT TO:<>", "invalid"),
            (b"rcpt TO:<ann> ORCPT=x", "invalid"),
            (b"RCPT TO:<\xff>", "invalid"),
            (b"RCPT TO:<away>", "temporary"),
            (b"RCPT TO:<cid>", "over-limit"),
            (b"DATA x", None),
            (b"NOTHING", None),
        ):
            before = dict(self.counted(catalogue.DELIVERED))
            with mock.patch.object(lmtp, "MAX_RECIPIENTS", 1 if b"<cid>" in line else 9):
                self.client.ask(line)
            if outcome is not None:
                before[outcome,] = before.get((outcome,), 0) + 1
            self.assertEqual(self.counted(catalogue.DELIVERED), before, line)

    def test_refused_messages(self):
        """A message that is refused at its end counts for each of its recipients."""
        for text, outcome in ((b"x" * 101, "over-limit"), (b"a\nb", "invalid")):
            self.client = self.connect(self.make_factory(max_octets=100))
            self.begin(b"ann", b"bob")
            self.client.send(text + b"\r\n.\r\n")
            self.assertEqual(self.counted(catalogue.DELIVERED), {(outcome,): 2})

    def test_catalogue(self):
        """Each outcome of the catalogue is that of some reply, and no other is counted."""
        self.assertEqual(set(_OUTCOMES.values()), set(catalogue.DELIVERIES))

    def test_all_replies(self):
        """There is an outcome for whatever a delivery raises."""
        for error in (
            *(UnknownRecipient(), DeliveryRefused("x"), OSError()),
            *(OSError(code, "full") for code in (errno.EDQUOT, errno.ENOSPC)),
        ):
            self.assertIn(reply_to(error), _OUTCOMES)
