"""Sessions that the server ends."""

from popserv.server.dismissal import dismiss
from popserv.server.session_events import EndReason
from tests.server.harness import ServerTestCase


class DismissalTests(ServerTestCase):
    """The mailbox is released, and never while a command runs."""

    def test_waiting(self):
        """A client that waits for nothing is told; the log has the reason."""
        client = self.logged_in()
        dismiss(client.server, EndReason.ADMINISTRATOR)
        self.assertEqual(
            client.received(),
            b"-ERR [SYS/TEMP] the server has ended your session, try again later\r\n",
        )
        self.assertEqual((client.closed, client.transport.aborted), (True, False))
        self.assert_released()
        client.lose()
        ends = [event["reason"] for event in self.log if event.get("event") == "session"]
        self.assertEqual(ends, ["by the administrator"])

    def test_not_reading(self):
        """The maildrop of a client that does not read is free before its connection is lost."""
        client = self.logged_in()
        self.fill(client)
        dismiss(client.server, EndReason.ADMINISTRATOR)
        self.assertFalse(client.server.is_disconnected)
        self.assert_released()
        client.lose()
        self.assert_released()

    def test_removal(self):
        """A removal is not interrupted; the maildrop is free after it."""
        client = self.logged_in()
        self.store.slow.add("remove")
        client.send(b"DELE 1\r\nQUIT\r\n")
        dismiss(client.server, EndReason.ADMINISTRATOR)
        self.assertTrue(client.transport.aborted)
        client.lose()
        self.assertEqual(self.store.locked, {b"ann"})
        self.store.waiting["remove"].callback(None)
        self.assert_released()

    def test_body(self):
        """A body that is being sent is truncated, and the connection aborted."""
        client = self.logged_in()
        self.fill(client)
        client.send(b"HUGE\r\n")
        dismiss(client.server, EndReason.ADMINISTRATOR)
        self.assertTrue(client.transport.aborted)
        client.lose()
        self.assert_released()

    def test_before_greeting(self):
        """A connection on which nothing was sent yet is aborted."""
        client = self.connect()
        client.server.has_greeted = False
        dismiss(client.server, EndReason.ADMINISTRATOR)
        self.assertTrue(client.transport.aborted)
