"""The ports of a server, which are all opened or end it; more in test_tap."""

from twisted.application.service import Service
from twisted.trial.unittest import SynchronousTestCase

from popserv.server.listeners import CannotStart, Listeners


class ListenersTests(SynchronousTestCase):
    """Listeners."""

    def test_no_port(self):
        """What is no port number ends the server by one line."""

        class Wrong(Service):
            def privilegedStartService(self):
                raise OverflowError("port must be 0-65535.")

        listeners = Listeners()
        Wrong().setServiceParent(listeners)
        end = self.assertRaises(CannotStart, listeners.privilegedStartService)
        self.assertEqual(str(end), "popserv: cannot listen: port must be 0-65535.")
