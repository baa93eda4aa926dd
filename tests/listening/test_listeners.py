"""The listening ports of a server; tests.test_tap has more."""

import errno

from twisted.application.service import Service
from twisted.internet.error import CannotListenError
from twisted.trial.unittest import SynchronousTestCase

from popserv.listening.listeners import CannotStart, Listeners


class ListenersTests(SynchronousTestCase):
    """Listeners."""

    def test_port_in_use(self):
        """The remedy names the option of the port, or else the first one."""

        class InUse(Service):
            def privilegedStartService(self):
                raise CannotListenError("", 110, OSError(errno.EADDRINUSE, "in use"))

        for added, option in ((True, "--dance"), (False, "--sing")):
            listeners = Listeners(["--sing", "--play"])
            if added:
                listeners.add(InUse(), "--dance")
            else:
                InUse().setServiceParent(listeners)
            error = self.assertRaises(CannotStart, listeners.privilegedStartService)
            self.assertRegex(str(error), f"Choose another port with {option}$")

    def test_invalid_port(self):
        """A number that is not a port ends the server with one line."""

        class InvalidPort(Service):
            def privilegedStartService(self):
                raise OverflowError("port must be 0-65535.")

        for options, names in [((), "--listen or --listen-tls"), ((["--sing"],), "--sing")]:
            listeners = Listeners(*options)
            InvalidPort().setServiceParent(listeners)
            error = self.assertRaises(CannotStart, listeners.privilegedStartService)
            self.assertRegex(str(error), f"from 0 to 65535; correct {names}$")
            named = Listeners(*options)
            Service().setServiceParent(named)
            named.add(InvalidPort(), "--dance")
            error = self.assertRaises(CannotStart, named.privilegedStartService)
            self.assertRegex(str(error), "from 0 to 65535; correct --dance$")
