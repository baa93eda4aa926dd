"""The reason of a failed TLS handshake; STLS itself is tested in tests.commands.test_stls."""

from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from popserv.transports.starttls import short_reason


class ReasonTests(SynchronousTestCase):
    """short_reason."""

    def test_short_reason(self):
        """Of OpenSSL's errors only the reasons are returned, of others the text or the type."""
        for error, reason in [
            (SSL.Error([("SSL routines", "", "unsupported protocol")]), "unsupported protocol"),
            (SSL.Error([("a", "", "b"), ("c", "", "d")]), "b; d"),
            (ValueError("unusual"), "unusual"),
            (ValueError(), "ValueError"),
        ]:
            self.assertEqual(short_reason(error), reason)
