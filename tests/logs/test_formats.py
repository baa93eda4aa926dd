"""Tests of popserv.logs.formats."""

import io
import json

from twisted.logger import ILogObserver
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from popserv.logs import journal
from popserv.logs.formats import FORMATS


class FormatTests(SynchronousTestCase):
    """The values of --log-format."""

    def written(self, name):
        """Return what an observer writes into a file."""
        file = io.StringIO()
        observer = FORMATS[name](file)
        verifyObject(ILogObserver, observer)
        observer({"log_format": "an event", "log_time": 0.0})
        if name == "journald":
            observer._socket.close()
        return file.getvalue()

    def test_formats(self):
        """Text and JSON go to the file, and so does what the journal cannot get."""
        self.assertIn("[-#-] an event\n", self.written("text"))
        self.assertEqual(json.loads(self.written("json"))["message"], "an event")
        self.patch(journal.JournalObserver.__init__, "__defaults__", ("/nonexistent/socket",))
        lines = self.written("journald").splitlines()
        self.assertIn("the systemd journal cannot be reached: ", lines[0])
        self.assertIn("[-#-] an event", lines[1])
