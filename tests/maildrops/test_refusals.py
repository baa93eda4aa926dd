"""Tests of popserv.maildrops.refusals."""

import errno
import os

from twisted.trial.unittest import SynchronousTestCase

from popserv.errors import MaildropUnavailable, TryLater
from popserv.maildrops.refusals import refusal, removed_meanwhile
from popserv.texts import ENGLISH, Text


class RefusalTests(SynchronousTestCase):
    """What a client is told of an error."""

    def test_transient(self):
        """After an error that may not recur the client is to try again, also for a message."""
        for number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOLCK, errno.ESTALE):
            error = OSError(number, os.strerror(number), "/mail/ann")
            for text in ((), (Text("the message cannot be read"),)):
                self.assertIsInstance(refusal(error, *text), TryLater)

    def test_permanent(self):
        """After any other one the client is to ask for help, with the text that is given."""
        for error in (
            PermissionError(errno.EACCES, "Permission denied", "/mail/ann"),
            OSError(errno.EIO, "Input/output error", "/mail/ann"),
            ValueError("no path for this name"),
        ):
            self.assertIsInstance(refusal(error), MaildropUnavailable)
            refused = refusal(error, Text("the message cannot be read"))
            self.assertIsInstance(refused, MaildropUnavailable)
            self.assertEqual(refused.text.render(ENGLISH), "the message cannot be read")

    def test_removed(self):
        """A maildrop that was just removed may be there again, and the log tells its path."""
        refused = removed_meanwhile(b"/mail/ann")
        self.assertIsInstance(refused, TryLater)
        self.assertEqual(str(refused.__cause__), "/mail/ann was removed meanwhile")
