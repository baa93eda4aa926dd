"""Tests of popserv.testing.messages."""

from twisted.trial.unittest import TestCase

from popserv.testing import SAMPLE_MESSAGES, naive_octets


class NaiveOctetsTests(TestCase):
    """The oracle counts the octets of the wire form."""

    def test_octets(self):
        """Each line counts with CRLF; a lone CR counts as data."""
        octets = [24, 23, 33, 30, 36, 24, 25, 14, 16, 0]
        self.assertEqual([naive_octets(message) for message in SAMPLE_MESSAGES[:10]], octets)
