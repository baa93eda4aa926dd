"""Status lines."""

from twisted.trial.unittest import SynchronousTestCase

from popserv.core import replies
from popserv.errors import POPError


class StatusLineTests(SynchronousTestCase):
    """RFC 1725 section 3: status indicators; RFC 2449 section 8: response codes."""

    def test_status_lines(self):
        """A reply is a status indicator, a code in brackets if there is one, and text."""
        self.assertEqual(replies.ok_line(b"2 320"), b"+OK 2 320\r\n")
        self.assertEqual(replies.err_line(POPError("no")), b"-ERR no\r\n")
        self.assertEqual(
            replies.err_line(POPError("no", code=b"SYS/TEMP")), b"-ERR [SYS/TEMP] no\r\n"
        )
