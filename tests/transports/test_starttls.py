"""Where TLS can be started, and why a handshake failed; see also tests.commands.test_stls."""

from OpenSSL import SSL
from twisted.internet.protocol import Factory
from twisted.internet.testing import StringTransport
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.trial.unittest import SynchronousTestCase

from popserv.transports.starttls import can_start_tls, short_reason


class StartTests(SynchronousTestCase):
    """can_start_tls."""

    def test_wrapper(self):
        """TLS cannot be started below a wrapper."""
        self.assertTrue(can_start_tls(StringTransport()))
        self.assertFalse(can_start_tls(ProtocolWrapper(WrappingFactory(Factory()), None)))


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
