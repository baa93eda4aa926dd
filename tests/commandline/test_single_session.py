"""Tests of popserv.commandline.single_session; tests.live runs the command itself."""

import os
import signal
from unittest.mock import Mock, patch

from twisted.trial.unittest import SynchronousTestCase

from popserv.commandline import single_session
from popserv.commandline.session import Options
from popserv.commandline.single_session import SingleSession


class SingleSessionTests(SynchronousTestCase):
    """The start of a session."""

    def test_disconnected_before_start(self):
        """If the client disconnects before the session starts, the log says so; the code is 1."""
        root = self.mktemp()
        os.mkdir(root)
        options = Options()
        options.parseOptions(["--user", "ann", "--maildir", root])
        streams, reactor = Mock(), Mock()
        reactor.waker.o = -1
        streams.connect.side_effect = OSError(107, "not connected")
        reactor.callWhenRunning = reactor.callFromThread = lambda function: function()
        # The signal arrives when there is no connection to abort.
        reactor.run = lambda **_: os.kill(os.getpid(), signal.SIGHUP)
        with patch.object(single_session, "_log") as log:
            self.assertEqual(SingleSession(options, streams, reactor).run(), 1)
        self.assertEqual(len(log.warn.mock_calls), 1)
        streams.restore.assert_called_once_with()
        reactor.stop.assert_called_once_with()
