"""Why a TLS handshake failed; STLS itself is tested in commands/test_stls."""

from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from popserv.transports.starttls import short_reason


class ReasonTests(SynchronousTestCase):
    """The reason in the log."""

    def test_in_short(self):
        """Of OpenSSL's errors the reasons are told, of others what they say, or what they are."""
        for error, told in [
            (SSL.Error([("SSL routines", "", "unsupported protocol")]), "unsupported protocol"),
            (SSL.Error([("a", "", "b"), ("c", "", "d")]), "b; d"),
            (ValueError("odd"), "odd"),
            (ValueError(), "ValueError"),
        ]:
            self.assertEqual(short_reason(error), told)
