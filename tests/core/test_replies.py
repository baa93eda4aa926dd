"""Tests of popserv.core.replies."""

from twisted.trial.unittest import SynchronousTestCase

from popserv.core import replies
from popserv.errors import POPError


class StatusLineTests(SynchronousTestCase):
    """Status indicators (RFC 1725 section 3) and response codes (RFC 2449 section 8)."""

    def test_status_lines(self):
        """A status line is a status indicator, a response code in brackets if any, and text."""
        self.assertEqual(replies.ok_line(b"2 320"), b"+OK 2 320\r\n")
        self.assertEqual(replies.err_line(POPError("no")), b"-ERR no\r\n")
        self.assertEqual(
            replies.err_line(POPError("no", code=b"SYS/TEMP")), b"-ERR [SYS/TEMP] no\r\n"
        )
